"""Links to our own connect page: signed, dated, for one user and one toolkit. They carry no secret and use up nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

from django.conf import settings
from django.core import signing

from apps.toolkits.spec import Tool

from .access import scopes_for
from .models import Connection

SALT = "jackfield.connect-link"
LIFETIME = 24 * 3600


@dataclass(frozen=True)
class Link:
    """What a link permits: to connect this user at this toolkit.

    ``session_id`` names the connect session of a flow that an integrator started; then the link works once. ``scopes`` are
    asked for beyond the usual ones.
    """

    project_id: str
    user_id: str
    toolkit: str
    redirect_url: str = ""
    session_id: str = ""
    test: bool = False
    scopes: list[str] = field(default_factory=list)


class BadLink(Exception):
    """Not a link of ours, or too old."""


def make_link(link: Link) -> str:
    """The URL of our connect page."""
    data: list[object] = [link.project_id, link.user_id, link.toolkit, link.redirect_url, link.session_id, link.test]
    data += [link.scopes] if link.scopes else []
    return f"{settings.JACKFIELD_URL}/connect/{signing.dumps(data, salt=SALT, compress=True)}"


def read_link(text: str, max_age: int = LIFETIME) -> Link:
    try:
        data = signing.loads(text, salt=SALT, max_age=max_age)
        return Link(*data)
    except (signing.BadSignature, TypeError, ValueError) as error:
        raise BadLink from error


def reconnect_link(connection: Connection, scopes: list[str] | None = None) -> str:
    """Where the person connects the account again; ``scopes`` are asked for beyond the usual ones.

    A shared account is connected again by an admin, whoever asks: nobody else may put their own in its place.
    """
    user = connection.end_user
    if user is None:
        return f"{settings.JACKFIELD_URL}/admin/connections/integration/{connection.integration_id}/change/"
    return make_link(Link(connection.project_id, user.external_id, connection.toolkit, scopes=scopes or []))


def advice_on_scopes(connection: Connection, tool: Tool) -> str:
    """What to do about a 403 of the service, where the tool names scopes that the connection was not granted; else ""."""
    missing = scopes_for(connection, tool)
    if not missing:
        return ""
    names = ", ".join(missing)
    if connection.end_user is None:
        return f"The tool needs {names}, which the account was not connected with. Connect it again with these scopes."
    link = reconnect_link(connection, missing)
    return f"The tool needs {names}, which the user has not granted. Send the user to {link} to grant it."
