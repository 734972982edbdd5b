"""Links to our own connect page: signed, dated, for one user and one toolkit. They carry no secret and use up nothing."""

from __future__ import annotations

from dataclasses import dataclass

from django.conf import settings
from django.core import signing

from .models import Connection

SALT = "jackfield.connect-link"
LIFETIME = 24 * 3600


@dataclass(frozen=True)
class Link:
    """What a link permits: to connect this user at this toolkit.

    ``session_id`` names the connect session of a flow that an integrator started; then the link works once.
    """

    project_id: str
    user_id: str
    toolkit: str
    redirect_url: str = ""
    session_id: str = ""
    test: bool = False


class BadLink(Exception):
    """Not a link of ours, or too old."""


def make_link(link: Link) -> str:
    """The URL of our connect page."""
    data = [link.project_id, link.user_id, link.toolkit, link.redirect_url, link.session_id, link.test]
    return f"{settings.JACKFIELD_URL}/connect/{signing.dumps(data, salt=SALT, compress=True)}"


def read_link(text: str, max_age: int = LIFETIME) -> Link:
    try:
        data = signing.loads(text, salt=SALT, max_age=max_age)
        return Link(*data)
    except (signing.BadSignature, TypeError, ValueError) as error:
        raise BadLink from error


def reconnect_link(connection: Connection) -> str:
    user = connection.end_user
    return make_link(Link(connection.project_id, user.external_id if user else "", connection.toolkit))
