"""The toolkit ``custom``: a service that an integration describes itself (Raw execute API)."""

from __future__ import annotations

from apps.toolkits.spec import Toolkit

from .models import Integration

SLUG = "custom"


def toolkit_of(integration: Integration) -> Toolkit:
    """What the integration's own settings say, as a toolkit. Raises LookupError where they say nothing."""
    raise LookupError("no custom services yet")
