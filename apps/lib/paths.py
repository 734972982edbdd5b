"""What stands in a path, told apart by its form: a project's id has an underscore, a toolkit's slug none, a workspace's id
is a UUID."""

from __future__ import annotations

from django.urls import register_converter
from django.urls.converters import StringConverter


class ProjectId(StringConverter):
    regex = "[^/_]*_[^/]*"


class WorkspaceId(StringConverter):
    """A UUID, in either case (RFC 9562 section 4)."""

    regex = "[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"


class Slug(StringConverter):
    """A toolkit's; the words that are reserved (`apps.toolkits.spec.RESERVED_SLUGS`) have routes of their own before."""

    regex = "[a-z0-9-]+"


class ToolSlug(StringConverter):
    regex = "[a-z][a-z0-9_]*"


class Rest(StringConverter):
    """All that follows, or nothing."""

    regex = ".*"


register_converter(ProjectId, "project")
register_converter(WorkspaceId, "workspace")
register_converter(Slug, "toolkit")
register_converter(ToolSlug, "tool")
register_converter(Rest, "rest")
