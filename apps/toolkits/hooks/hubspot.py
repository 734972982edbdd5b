"""What HubSpot's requests need that the toolkit file cannot say."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

# Ids of HubSpot's own association types, from note and from task to the record linked.
NOTE_LINKS = {"contact_ids": 202, "company_ids": 190, "deal_ids": 214, "ticket_ids": 228}
TASK_LINKS = {"contact_ids": 204, "company_ids": 192, "deal_ids": 216, "ticket_ids": 230}


def group_filters(params: dict[str, Any]) -> dict[str, Any]:
    """Conditions that must all hold are one group of HubSpot's; beside groups given they join each of them."""
    filters = params.get("filters")
    if not filters:
        return params
    groups = params.get("filter_groups") or [{"filters": []}]
    return params | {"filter_groups": [{"filters": [*group["filters"], *filters]} for group in groups]}


def link_note(params: dict[str, Any]) -> dict[str, Any]:
    return _linked({"timestamp": _now()} | params, NOTE_LINKS)


def link_task(params: dict[str, Any]) -> dict[str, Any]:
    return _linked({"due": _now(), "status": "NOT_STARTED"} | params, TASK_LINKS)


def _linked(params: dict[str, Any], links: dict[str, int]) -> dict[str, Any]:
    associations = list(params.get("associations", []))
    for name, type_id in links.items():
        types = [{"associationCategory": "HUBSPOT_DEFINED", "associationTypeId": type_id}]
        associations += [{"to": {"id": record_id}, "types": types} for record_id in params.get(name, [])]
    return params | {"associations": associations} if associations else params


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
