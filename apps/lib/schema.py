"""Migrations that a table in use does not notice."""

from __future__ import annotations

from typing import Any

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db.migrations import AddIndex
from django.db.migrations.state import ProjectState


class AddIndexOnline(AddIndexConcurrently):
    """Adds an index without a lock on writing: CONCURRENTLY on PostgreSQL, plainly elsewhere.

    The migration must say ``atomic = False``.
    """

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: ProjectState, to_state: Any) -> None:
        how = self._how(schema_editor)
        how.database_forwards(self, app_label, schema_editor, from_state, to_state)

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: ProjectState, to_state: Any) -> None:
        how = self._how(schema_editor)
        how.database_backwards(self, app_label, schema_editor, from_state, to_state)

    def _how(self, schema_editor: Any) -> Any:
        return AddIndexConcurrently if schema_editor.connection.vendor == "postgresql" else AddIndex
