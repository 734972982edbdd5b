"""Migrations that a table in use does not notice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import date
from typing import Any

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import OperationalError, connection, models
from django.db.migrations import AddField, AddIndex
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ProjectState
from django.db.transaction import atomic

from . import partitions
from .partitions import COLUMN, KNOWN, UNKNOWN, bounded, quoted

LOCK_MS = 1000  # that a change of a table waits for its lock, while others wait behind it
WORK_MS = 60_000
TRIES = 60


class AddIndexOnline(AddIndexConcurrently):
    """Adds an index without a lock on writing: CONCURRENTLY on PostgreSQL, plainly elsewhere.

    Of a table with partitions each gets its own, and then the table. The migration must say ``atomic = False``.
    """

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: ProjectState, to_state: Any) -> None:
        model = to_state.apps.get_model(app_label, self.model_name)
        if partitions.is_partitioned(model._meta.db_table):
            if self.allow_migrate_model(schema_editor.connection.alias, model):
                _add_index_to_each(self.index, model, schema_editor)
            return
        how = self._how(schema_editor)
        how.database_forwards(self, app_label, schema_editor, from_state, to_state)

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: ProjectState, to_state: Any) -> None:
        how = self._how(schema_editor)
        if partitions.is_partitioned(from_state.apps.get_model(app_label, self.model_name)._meta.db_table):
            how = AddIndex
        how.database_backwards(self, app_label, schema_editor, from_state, to_state)

    def _how(self, schema_editor: Any) -> Any:
        return AddIndexConcurrently if schema_editor.connection.vendor == "postgresql" else AddIndex


def _add_index_to_each(index: models.Index, model: Any, schema_editor: Any) -> None:
    """PostgreSQL has no CREATE INDEX CONCURRENTLY for a table with partitions, but one for each of them."""
    table, name = model._meta.db_table, str(index.name)
    statement = str(index.create_sql(model, schema_editor))
    start = f"INDEX {quoted(name)} ON {quoted(table)} "
    if start not in statement:
        raise ValueError(f"not understood: {statement}")
    run(statement.replace(start, f"INDEX IF NOT EXISTS {quoted(name)} ON ONLY {quoted(table)} "))
    for part in partitions.children(table):
        own = _short(f"{part}_{name}")
        run(f"DROP INDEX CONCURRENTLY IF EXISTS {quoted(own)}")
        run(statement.replace(start, f"INDEX CONCURRENTLY {quoted(own)} ON {quoted(part)} "))
        run(f"ALTER INDEX {quoted(name)} ATTACH PARTITION {quoted(own)}")


class AddFieldInPlace(AddField):
    """Adds a column with a constant default of the database: no row is written anew, on SQLite neither."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: ProjectState, to_state: Any) -> None:
        model = to_state.apps.get_model(app_label, self.model_name)
        if schema_editor.connection.vendor != "sqlite":
            super().database_forwards(app_label, schema_editor, from_state, to_state)
        elif self.allow_migrate_model(schema_editor.connection.alias, model):
            field = model._meta.get_field(self.name)
            value = schema_editor.quote_value(field.db_default)
            kind = field.db_type(schema_editor.connection)
            schema_editor.execute(
                f"ALTER TABLE {quoted(model._meta.db_table)} ADD COLUMN {quoted(field.column)} {kind} DEFAULT {value} NOT NULL"
            )


class PartitionLog(Operation):
    """On PostgreSQL a table becomes one with partitions of ``forget_on`` (`apps.lib.partitions`), under the same name.

    What it holds becomes the partition of unknown days, as it lies: no row is copied, and the table is locked for some
    milliseconds. It needs the column already, has a primary key of one column, and is referred to by no foreign key. Its own
    foreign keys end, so that dropping a partition needs no lock on the tables that they lead to; to Django, that goes on to
    look after them, they become ones without a constraint. Keys and constraints that are unique are so with the day.

    ``days`` gives the days for which partitions are made at once. The migration must say ``atomic = False``; what was broken
    off is taken up by the next attempt. Backwards the rows are copied into one table, to which nobody can write meanwhile.
    """

    reversible = True
    reduces_to_sql = False

    def __init__(self, model_name: str, days: Callable[[], Iterable[date]]) -> None:
        self.model_name, self.days = model_name, days

    def deconstruct(self) -> Any:
        return (type(self).__qualname__, [], {"model_name": self.model_name, "days": self.days})

    def describe(self) -> str:
        return f"Partition {self.model_name} by the day on which its rows may go"

    def state_forwards(self, app_label: str, state: ProjectState) -> None:
        model = state.models[app_label, self.model_name.lower()]
        for name, field in model.fields.items():
            if _is_constrained(field):
                loose: Any = field.clone()
                loose.db_constraint = False
                state.alter_field(app_label, self.model_name.lower(), name, loose, preserve_default=True)

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: ProjectState, to_state: Any) -> None:
        if schema_editor.connection.vendor != "postgresql":
            return
        table = to_state.apps.get_model(app_label, self.model_name)._meta.db_table
        if not partitions.is_partitioned(table):
            _drop_foreign_keys(table)
            uniques = _prepare(table)
            patiently(lambda: _turn(table, uniques))
        partitions.cover(table, self.days(), date.today())

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: ProjectState, to_state: Any) -> None:
        model = to_state.apps.get_model(app_label, self.model_name)
        if partitions.is_partitioned(model._meta.db_table):
            patiently(lambda: _turn_back(model, schema_editor), work_ms=0)


# -- There -----------------------------------------------------------------------------------------------------------
def _drop_foreign_keys(table: str) -> None:
    for (name,) in ask("SELECT conname FROM pg_constraint WHERE conrelid = to_regclass(%s) AND contype = 'f'", table):
        patiently(lambda name=name: run(f"ALTER TABLE {quoted(table)} DROP CONSTRAINT {quoted(name)}"))  # type: ignore[misc]


def _prepare(table: str) -> list[tuple[str, str, str]]:
    """What takes long, done while others read and write: unique indexes with the day, and the proof that no row has one.

    Gives the constraints that those indexes are for: name, kind (p, u), and the index's name.
    """
    run(f"UPDATE {quoted(table)} SET {COLUMN} = DEFAULT WHERE {COLUMN} <> '{UNKNOWN}'")  # noqa: S608 - names
    uniques = []
    for name, kind, columns in _uniques(table):
        index = _short(f"{table}_past_{'key' if kind == 'p' else name}")
        run(f"DROP INDEX CONCURRENTLY IF EXISTS {quoted(index)}")
        run(f"CREATE UNIQUE INDEX CONCURRENTLY {quoted(index)} ON {quoted(table)} ({columns}, {COLUMN})")
        uniques.append((name, kind, index))
    bound = quoted(f"{table}_past_bound")
    run(f"ALTER TABLE {quoted(table)} DROP CONSTRAINT IF EXISTS {bound}")
    run(f"ALTER TABLE {quoted(table)} ADD CONSTRAINT {bound} CHECK ({COLUMN} < '{KNOWN}') NOT VALID")
    run(f"ALTER TABLE {quoted(table)} VALIDATE CONSTRAINT {bound}")
    return uniques


def _uniques(table: str) -> list[tuple[str, str, str]]:
    """Name, kind and columns, as SQL, of the primary key and the unique constraints."""
    return ask(
        "SELECT conname, contype, (SELECT string_agg(quote_ident(attname), ', ' ORDER BY place) "
        "FROM unnest(conkey) WITH ORDINALITY AS k(number, place) JOIN pg_attribute ON attrelid = conrelid "
        "AND attnum = number) FROM pg_constraint WHERE conrelid = to_regclass(%s) AND contype IN ('p', 'u') ORDER BY 2",
        table,
    )


def _indexes(table: str) -> list[tuple[str, str]]:
    """Name and definition of the indexes that belong to no constraint; not those that Django adds for LIKE on keys."""
    return ask(
        "SELECT relname, pg_get_indexdef(indexrelid) FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
        "WHERE indrelid = to_regclass(%s) AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid) "
        "AND NOT indisunique AND relname NOT LIKE %s ORDER BY 1",
        table,
        "%\\_like",
    )


def _turn(table: str, uniques: list[tuple[str, str, str]]) -> None:
    """The turn itself: the table takes its past's place as the parent of it. Of catalogues only."""
    past = f"{table}_past"
    run(f"LOCK TABLE {quoted(table)} IN ACCESS EXCLUSIVE MODE")
    columns = {name: key for name, _, key in _uniques(table)}
    indexes = _indexes(table)
    sequence = _take_sequence(table)
    run(f"ALTER TABLE {quoted(table)} RENAME TO {quoted(past)}")
    for name, _ in indexes:
        run(f"ALTER INDEX {quoted(name)} RENAME TO {quoted(_short(f'{past}_{name}'))}")
    run(f"CREATE TABLE {quoted(table)} (LIKE {quoted(past)} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE) "
        f"PARTITION BY RANGE ({COLUMN})")  # fmt: skip
    run(f"ALTER TABLE {quoted(table)} DROP CONSTRAINT {quoted(f'{past}_bound')}")
    for name, kind, index in uniques:
        word = "PRIMARY KEY" if kind == "p" else "UNIQUE"
        run(f"ALTER TABLE {quoted(past)} DROP CONSTRAINT {quoted(name)}")
        run(f"ALTER TABLE {quoted(past)} ADD CONSTRAINT {quoted(index)} {word} USING INDEX {quoted(index)}")
        run(f"ALTER TABLE {quoted(table)} ADD CONSTRAINT {quoted(name)} {word} ({columns[name]}, {COLUMN})")
    for _, definition in indexes:
        run(definition)  # it names the table, which is the new one now
    run(f"ALTER TABLE {quoted(table)} ATTACH PARTITION {quoted(past)} FOR VALUES FROM (MINVALUE) TO ('{KNOWN}')")
    run(f"ALTER TABLE {quoted(past)} DROP CONSTRAINT {quoted(f'{past}_bound')}")
    run(f"CREATE TABLE {quoted(f'{table}_rest')} PARTITION OF {quoted(table)} DEFAULT")
    if sequence:
        run(f"ALTER SEQUENCE {quoted(sequence)} OWNED BY {quoted(table)}.id")


def _take_sequence(table: str) -> str:
    """An identity becomes an ordinary default, which partitions of every version of PostgreSQL can have. Gives its sequence."""
    if not ask("SELECT 1 FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attidentity <> ''", table):
        return ""
    following = _next_number(table)
    run(f"ALTER TABLE {quoted(table)} ALTER COLUMN id DROP IDENTITY")
    name = f"{table}_id_seq"
    run(f"CREATE SEQUENCE {quoted(name)} START {following}")
    run(f"ALTER TABLE {quoted(table)} ALTER COLUMN id SET DEFAULT nextval('{quoted(name)}')")
    return name


def _next_number(table: str) -> int:
    sequence = ask("SELECT pg_get_serial_sequence(%s, 'id')", quoted(table))[0][0]
    return int(ask(f"SELECT last_value + is_called::int FROM {sequence}")[0][0])  # noqa: S608 - a name


def _is_constrained(field: Any) -> bool:
    return isinstance(field, models.ForeignKey) and bool(field.db_constraint)  # type: ignore[attr-defined]


# -- And back --------------------------------------------------------------------------------------------------------
def _turn_back(model: Any, schema_editor: Any) -> None:
    table, plain = model._meta.db_table, f"{model._meta.db_table}_plain"
    keys = [field for field in model._meta.local_fields if _is_constrained(field)]
    run(f"LOCK TABLE {quoted(table)} IN ACCESS EXCLUSIVE MODE")
    uniques, indexes = _uniques(table), _indexes(table)
    serial = ask("SELECT pg_get_serial_sequence(%s, 'id')", quoted(table))[0][0]
    following = _next_number(table) if serial else 0
    run(
        f"CREATE TABLE {quoted(plain)} (LIKE {quoted(table)} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE)"
    )
    if serial:
        run(f"ALTER TABLE {quoted(plain)} ALTER COLUMN id DROP DEFAULT")
    names = ", ".join(quoted(field.column) for field in model._meta.local_fields if field.column != COLUMN)
    source = f"SELECT {names} FROM {quoted(table)} AS log WHERE {_without_orphans(keys)}"  # noqa: S608 - names
    run(f"INSERT INTO {quoted(plain)} ({names}) {source}")
    run(f"DROP TABLE {quoted(table)}")
    run(f"ALTER TABLE {quoted(plain)} RENAME TO {quoted(table)}")
    for name, kind, columns in uniques:
        word = "PRIMARY KEY" if kind == "p" else "UNIQUE"
        narrow = ", ".join(part for part in columns.split(", ") if part != COLUMN)
        run(f"ALTER TABLE {quoted(table)} ADD CONSTRAINT {quoted(name)} {word} ({narrow})")
    for _, definition in indexes:
        run(definition.replace(" ON ONLY ", " ON ", 1))
    if serial:
        run(f"ALTER TABLE {quoted(table)} ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (START {following})")
    for field in keys:
        run(str(schema_editor._create_fk_sql(model, field, "_fk_%(to_table)s_%(to_column)s")))


def _without_orphans(keys: list[Any]) -> str:
    """Rows that refer to what is no more, which a constraint would not have."""
    found = ["TRUE"]
    for field in keys:
        column, to = f"log.{quoted(field.column)}", field.target_field
        there = f"EXISTS (SELECT FROM {quoted(to.model._meta.db_table)} WHERE {quoted(to.column)} = {column})"
        found.append(f"({column} IS NULL OR {there})")
    return " AND ".join(found)


# -- Indexes -----------------------------------------------------------------------------------------------------------
def drop_like_indexes(table: str) -> None:
    """Those that Django adds to texts with an index, for LIKE, on PostgreSQL; without a lock on writing."""
    if connection.vendor != "postgresql":
        return
    names = ask("SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = to_regclass(%s)", table)
    for (name,) in names:
        if name.strip('"').endswith("_like"):
            run(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")


# -- Statements ------------------------------------------------------------------------------------------------------
def patiently(change: Callable[[], None], work_ms: int = WORK_MS) -> None:
    """In a transaction that waits for no lock longer than a second; once more where it had to, for a minute."""
    for left in reversed(range(TRIES)):
        try:
            with atomic(), bounded(LOCK_MS, work_ms):
                change()
            return
        except OperationalError:
            if not left:
                raise
        time.sleep(1)


def run(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


def ask(statement: str, *values: Any) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        return list(cursor.fetchall())


def _short(name: str) -> str:
    """As a name of PostgreSQL's may be long: 63 bytes, of which the end tells more."""
    return name if len(name) <= 63 else f"{name[:20]}{name[-43:]}"
