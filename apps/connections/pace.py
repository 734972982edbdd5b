"""What providers tell of their own limits."""

from apps.toolkits.spec import Toolkit


def before(connection_id: str, toolkit: Toolkit) -> None:
    """Raises `ProviderLimited`."""


def learn(connection_id: str, toolkit: Toolkit, status: int, headers: list[tuple[str, str]]) -> None: ...
