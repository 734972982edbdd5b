"""The hosted connect page: one person's accounts at a project's toolkits, behind a link that opens in one browser.

The link's secret has 256 bits and is kept as its SHA-256. Looking at the link changes nothing, as mail scanners and previews
do; the POST of its page claims it for the browser, whose cookie's hash then opens the page until it expires.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db.models import Q
from django.utils import timezone

from apps.lib import errors
from apps.lib.errors import InvalidInput
from apps.toolkits.registry import catalog
from apps.toolkits.spec import Toolkit
from apps.workspaces.models import Project
from apps.workspaces.services import clean_origin, end_user

from . import access, flows
from .admin_catalog import logo_of
from .flows import digest
from .models import Connection, ConnectPage, ConnectSession, Integration

LIFETIME = timedelta(minutes=30)
RESULTS = 20  # of one page's flows that the embedding script is told


# -- Making and opening ------------------------------------------------------------------------------------------------
def make_page(
    project: Project,
    user_id: str,
    *,
    toolkits: Sequence[str] | None = None,
    permitted: frozenset[str] = frozenset(),
    redirect_url: str = "",
    allowed_origins: Sequence[str] | None = None,
) -> tuple[ConnectPage, str]:
    """A page for an end user, and its link, which is given out once.

    ``toolkits`` are slugs, None: every enabled one that is ``permitted`` (empty: all are). ``allowed_origins`` may open the
    page from a script, None: all of the project's. Raises `InvalidInput`.
    """
    if redirect_url:
        flows.check_redirect_url(project, redirect_url)
    slugs = _checked_toolkits(project, toolkits, permitted)
    origins = _checked_origins(project, allowed_origins)
    secret = secrets.token_urlsafe(32)
    page = ConnectPage.objects.create(
        digest=digest(secret),
        project=project,
        end_user=end_user(project, user_id),
        toolkits=slugs,
        redirect_url=redirect_url,
        allowed_origins=origins,
        expires_at=timezone.now() + LIFETIME,
    )
    return page, f"{settings.JACKFIELD_URL}/connect/open/{secret}"


def _checked_toolkits(project: Project, wanted: Sequence[str] | None, permitted: frozenset[str]) -> list[str]:
    """Empty where the page shows every enabled toolkit, those that are enabled later too."""
    if wanted is None and not permitted:
        return []
    enabled = set(Integration.objects.filter(project=project).primary().enabled().values_list("toolkit", flat=True))
    enabled &= set(catalog(project).toolkits)
    if wanted is None:
        found = sorted(enabled & permitted)
        if not found:
            raise InvalidInput({"toolkits": ["No toolkit of this key is enabled for the project."]})
        return found
    bad = sorted(set(wanted) - enabled)
    if bad:
        raise InvalidInput({"toolkits": [f"Not enabled for this project: {', '.join(bad)}."]})
    return list(dict.fromkeys(wanted))


def _checked_origins(project: Project, wanted: Sequence[str] | None) -> list[str]:
    if wanted is None:
        return list(project.allowed_origins)
    allowed = {*project.allowed_origins, clean_origin(settings.JACKFIELD_URL)}
    found = list(dict.fromkeys(clean_origin(text) for text in wanted))
    bad = [origin for origin in found if origin not in allowed]
    if bad:
        raise InvalidInput({"allowedOrigins": [f"Not among the project's allowed origins: {', '.join(bad)}."]})
    return found


def find_by_secret(secret: str) -> ConnectPage | None:
    """The page of a link; None for an unknown one and for one that is too old."""
    found: ConnectPage | None = _living().filter(digest=digest(secret)).first()
    return found


def find_opened(page_id: str, cookie: str) -> ConnectPage | None:
    """The page that this browser has claimed, expired or not; None for any other."""
    page = _pages().filter(pk=page_id.replace("\x00", "")).first()
    return page if page is not None and is_bound_to(page, cookie) else None


def _pages() -> Any:
    return ConnectPage.objects.select_related("project__workspace__plan", "end_user")


def _living() -> Any:
    return _pages().filter(expires_at__gt=timezone.now())


def is_bound_to(page: ConnectPage, cookie: str) -> bool:
    return bool(page.binding and cookie) and secrets.compare_digest(page.binding, digest(cookie))


def claim(page: ConnectPage, cookie: str) -> bool:
    """Binds the page to the browser with this cookie; False where another browser was first."""
    if is_bound_to(page, cookie):
        return True
    now = timezone.now()
    free = ConnectPage.objects.filter(pk=page.pk, binding="", expires_at__gt=now)
    return bool(free.update(binding=digest(cookie), opened_at=now))


def is_open(page: ConnectPage) -> bool:
    return page.expires_at > timezone.now()


def opener_of(page: ConnectPage, origin: str) -> str:
    """The origin of the page that opened the popup, where it is one that is told; else empty."""
    return origin if origin and origin in page.allowed_origins else ""


def forget_expired() -> int:
    """Deletes pages a day after their end; gives how many."""
    return ConnectPage.objects.filter(expires_at__lt=timezone.now() - timedelta(days=1)).delete()[0]


# -- What stands on it -------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Account:
    """An account of the person's, as its row shows it."""

    connection: Connection
    state: str  # ready | expired | waiting | partial
    direct: bool  # connected again at the provider, not by a form
    missing: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.connection.account_label or self.connection.label

    @property
    def picture(self) -> str:
        """Empty for one that the pages' policy would not load."""
        picture = self.connection.account_picture
        return picture if picture.startswith("https://") else ""


@dataclass(frozen=True)
class Offer:
    """A toolkit of the page: whether it can be connected, by a click that leads to its provider (``direct``) or by a form,
    in several ways or one, and what is connected.
    """

    toolkit: Toolkit
    logo: str
    available: bool
    direct: bool
    several_ways: bool
    accounts: list[Account] = field(default_factory=list)

    @property
    def initial(self) -> str:
        return self.toolkit.name[:1].upper()

    @property
    def hue(self) -> int:
        return sum(self.toolkit.slug.encode()) % 6


def offers(page: ConnectPage) -> list[Offer]:
    """What the person has connected first, then what can be connected, then the rest; by name."""
    rows = Integration.objects.filter(project=page.project).primary()
    if page.toolkits:
        rows = rows.filter(toolkit__in=page.toolkits)
    accounts = _accounts(page)
    found = [
        offer
        for integration in rows
        if (integration.enabled or integration.pk in accounts)
        and (offer := _offer(page.project, integration, accounts.get(integration.pk, [])))
    ]
    return sorted(found, key=lambda offer: (not offer.accounts, not offer.available, offer.toolkit.name.casefold()))


def connections_of(page: ConnectPage) -> Any:
    """The person's accounts that the page may show and change."""
    rows = Connection.objects.filter(project=page.project, end_user=page.end_user, integration__is_primary=True)
    return rows.filter(toolkit__in=page.toolkits) if page.toolkits else rows


def _accounts(page: ConnectPage) -> dict[str, list[Connection]]:
    found: dict[str, list[Connection]] = {}
    for connection in connections_of(page).order_by("-is_primary", "created_at"):
        found.setdefault(connection.integration_id, []).append(connection)
    return found


def _offer(project: Project, integration: Integration, connections: Iterable[Connection]) -> Offer | None:
    integration.project = project
    toolkit = catalog(project).get(integration.toolkit)
    if toolkit is None:
        return None
    scheme = _scheme(toolkit, integration) if integration.enabled else None
    return Offer(
        toolkit,
        logo_of(toolkit),
        available=scheme is not None,
        direct=scheme is not None and scheme.type in flows.PROVIDER_SCHEMES,
        several_ways=len(ways(toolkit, integration)) > 1,
        accounts=[_account(connection, toolkit, integration) for connection in connections],
    )


def _scheme(toolkit: Toolkit, integration: Integration) -> Any:
    try:
        return flows.choose_scheme(toolkit, integration)
    except errors.Failure:
        return None


def ways(toolkit: Toolkit, integration: Integration) -> list[Any]:
    """The schemes by which a person may connect, in the toolkit's order."""
    ready = {*flows.FORM_SCHEMES, *(flows.PROVIDER_SCHEMES if access.oauth_client(integration) else ())}
    return [scheme for scheme in toolkit.auth if scheme.type in ready]


def _account(connection: Connection, toolkit: Toolkit, integration: Integration) -> Account:
    direct = connection.auth_type in flows.PROVIDER_SCHEMES
    if connection.status == Connection.Status.EXPIRED:
        return Account(connection, "expired", direct)
    if connection.status == Connection.Status.INACTIVE:
        return Account(connection, "waiting", direct)
    missing = _missing(connection, toolkit, integration)
    return Account(connection, "partial" if missing else "ready", direct, tuple(missing))


def _missing(connection: Connection, toolkit: Toolkit, integration: Integration) -> list[str]:
    """What connecting again would ask for and was not granted."""
    scheme = toolkit.auth_by_type.get(connection.auth_type)
    if scheme is None or scheme.type != "oauth2" or not connection.scopes:
        return []
    return access.missing_scopes(integration.scopes or scheme.scopes, connection.scopes)


def find_connection(page: ConnectPage, connection_id: str) -> Connection | None:
    rows = connections_of(page).select_related("integration", "project__workspace__plan", "end_user")
    found: Connection | None = rows.filter(pk=connection_id.replace("\x00", "")).first()
    return found


def allows(page: ConnectPage, slug: str) -> bool:
    return not page.toolkits or slug in page.toolkits


# -- How its flows ended -----------------------------------------------------------------------------------------------
def _ended(page: ConnectPage) -> Any:
    rows = ConnectSession.objects.filter(page=page).exclude(Q(outcome="") | Q(outcome="cancelled"))
    return rows.select_related("integration").order_by("-used_at", "-created_at")


def result(session: ConnectSession) -> dict[str, str]:
    """A flow's end as return URLs and messages have it: status with toolkit and connectionId, or with message."""
    named = {"toolkit": session.integration.toolkit}
    if session.outcome == "connected":
        return {"status": "connected", **named, "connectionId": session.connection_id}
    return {"status": "error", **named, "message": session.outcome or "connection_failed"}


def find_result(page: ConnectPage, session_id: str) -> ConnectSession | None:
    found: ConnectSession | None = _ended(page).filter(pk=session_id.replace("\x00", "")).first()
    return found


def done_url(page: ConnectPage) -> str:
    """Where "Done" leads: the integrator's page with how the last flow ended, ``status=closed`` where none did; or empty."""
    if not page.redirect_url:
        return ""
    last = _ended(page).first()
    return flows.with_result(page.redirect_url, **(result(last) if last else {"status": "closed"}))


def outcome(page: ConnectPage) -> dict[str, Any]:
    """What the embedding script asks for where the popup cannot tell it: how flows ended, and whether one is under way."""
    rows = list(_ended(page)[:RESULTS])
    under_way = ConnectSession.objects.filter(
        Q(used_at=None) | Q(outcome=""), page=page, expires_at__gt=timezone.now()
    ).exclude(callback_url="")
    newest = rows[0].created_at if rows else None
    pending = under_way.filter(created_at__gt=newest) if newest else under_way
    return {
        "pending": pending.exists(),
        "results": [{"id": row.pk, **result(row)} for row in reversed(rows)],
        "expiresAt": page.expires_at.isoformat(),
    }
