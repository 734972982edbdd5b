"""Circuit breaker of providers' hosts."""


def before(key: str) -> None:
    """Raises `CircuitOpen`."""


def succeeded(key: str) -> None: ...


def failed(key: str) -> None: ...
