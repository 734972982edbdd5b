"""Database connections, and SELECTs that are compiled once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any, Generic, TypeVar

import psycopg
from django.conf import settings
from django.db import InterfaceError, OperationalError, ProgrammingError, connection, models
from django.db.models.query import get_related_populators

log = logging.getLogger(__name__)

M = TypeVar("M", bound=models.Model)
# invalid_sql_statement_name, duplicate_prepared_statement, protocol_violation (another client's statement of that name)
LOST = {"26000", "42P05", "08P01"}
_prepare: bool = settings.JACKFIELD_DB_PREPARE


def release() -> None:
    """Gives a pooled connection back before something slow (an outbound call, a wait) is done without it.

    Kept inside a transaction, and where there is no pool: opening a connection anew would cost more than keeping it.
    """
    pooled = bool(connection.settings_dict.get("OPTIONS", {}).get("pool"))
    if pooled and connection.connection is not None and not connection.in_atomic_block:
        connection.close()


class Prepared(Generic[M]):
    """A query whose SQL Django's ORM writes once a process, for paths where writing it costs more than running it.

    ``make`` gives the queryset for its parameters, all of them texts that are compared as they are. What comes back are
    ordinary model objects, joined ones included.
    """

    def __init__(self, make: Callable[..., models.QuerySet[M]], parameters: int) -> None:
        self._make = make
        self._marks = [f"\x01parameter {index}\x01" for index in range(parameters)]
        self._lock = threading.Lock()
        self._compiled: dict[str, _Compiled] = {}

    def first(self, *values: str) -> M | None:
        """The first row's object, or None. One SELECT."""
        compiled = self._compiled.get(connection.vendor) or self._compile()
        row = _fetch_again_if_lost(compiled.sql, compiled.fill(values))
        return None if row is None else compiled.build(row)

    def _compile(self) -> _Compiled:
        with self._lock:
            compiled = _Compiled(self._make(*self._marks)[:1], self._marks)
            self._compiled[connection.vendor] = compiled
            return compiled


def _fetch_again_if_lost(sql: str, values: list[Any]) -> Any:
    """One row; asked for once more where the connection turns out to have been ended by a restart of the database."""
    try:
        return _fetch(sql, values)
    except (OperationalError, InterfaceError):
        if connection.in_atomic_block or connection.is_usable():
            raise
        log.warning("the database connection was lost; trying once more on another")
        pool = getattr(connection, "pool", None)
        connection.close()
        if pool is not None:
            pool.check()  # the restart ended those that lie in the pool, too
        return _fetch(sql, values)


def _fetch(sql: str, values: list[Any]) -> Any:
    return next(iter(execute(sql, values)), None)


def execute(sql: str, values: list[Any]) -> list[Any]:
    """Rows of a statement that is the same text each time, as a SELECT or by RETURNING.

    On PostgreSQL it is a prepared one: planning joins takes ten times as long as running them, and writing SQL anew by the ORM
    costs a hot path more than running it. Times among the values are given by `moment`. Behind a pooler that does not carry
    prepared statements (PgBouncer in transaction mode before 1.21) the first one that is lost turns them off for this process,
    and it is sent plainly. Django's debug cursors count plain ones.
    """
    global _prepare
    if _prepare and connection.vendor == "postgresql" and not connection.queries_logged:
        connection.ensure_connection()
        try:
            with connection.wrap_database_errors, psycopg.Cursor(connection.connection) as prepared:
                return list(prepared.execute(sql, values, prepare=True).fetchall())
        except (ProgrammingError, OperationalError) as error:
            if getattr(error.__cause__, "sqlstate", None) not in LOST or connection.in_atomic_block:
                raise
            log.warning("prepared statements do not last on this database connection; going on without: %s", error)
            _prepare = False
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return list(cursor.fetchall())


def moment(at: datetime | None) -> Any:
    """A time as this database's column takes it."""
    return connection.ops.adapt_datetimefield_value(at)


def insert_many(model: type[models.Model], rows: list[Any]) -> None:
    """Adds plain rows by one statement executed for all of them, those of a key already there left out.

    For logs: no signals, no defaults of the database, and every field holds what its column takes. `bulk_create` writes
    the SQL of each batch anew, which costs more than the INSERT.
    """
    fields = model._meta.concrete_fields
    quote = connection.ops.quote_name
    names = ", ".join(quote(str(field.column)) for field in fields)
    marks = ", ".join(["%s"] * len(fields))
    sql = f"INSERT INTO {quote(model._meta.db_table)} ({names}) VALUES ({marks}) ON CONFLICT DO NOTHING"  # noqa: S608 - names of columns
    attributes = [field.attname for field in fields]
    if _prepare and connection.vendor == "postgresql":
        values = [[getattr(row, name) for name in attributes] for row in rows]
        connection.ensure_connection()
        with connection.wrap_database_errors, psycopg.Cursor(connection.connection) as cursor:
            cursor.executemany(sql, values)
        return
    prepared = [[field.get_db_prep_save(getattr(row, field.attname), connection) for field in fields] for row in rows]
    with connection.cursor() as cursor:
        cursor.executemany(sql, prepared)


EMPTY: dict[Any, Any] = {"[]": list, "{}": dict}


class _Compiled:
    def __init__(self, queryset: models.QuerySet[Any], marks: list[str]) -> None:
        compiler = queryset.query.get_compiler(connection=connection)
        self.sql, found = compiler.as_sql()
        self.places = [(marks.index(value) if value in marks else None, value) for value in found]
        if not {index for index, _ in self.places} >= set(range(len(marks))):
            raise ValueError("a parameter does not stand in the query as it is")
        info = compiler.klass_info
        assert info is not None
        self.model = info["model"]
        fields = info["select_fields"]
        self.start, self.end = fields[0], fields[-1] + 1
        self.names = [column[0].target.attname for column in compiler.select[self.start : self.end]]
        # The stubs describe a later Django, which wants one argument more.
        self.populators = get_related_populators(info, compiler.select, queryset.db)  # type: ignore[call-arg]
        converters = compiler.get_converters([column[0] for column in compiler.select])
        self.converters = [
            (index, functions, expression, isinstance(expression.output_field, models.JSONField))
            for index, (functions, expression) in converters.items()
        ]
        self.db = queryset.db

    def fill(self, values: tuple[str, ...]) -> list[Any]:
        return [fixed if index is None else values[index] for index, fixed in self.places]

    def build(self, row: Any) -> Any:
        if self.converters:
            row = self._converted(row)
        built = self.model.from_db(self.db, self.names, row[self.start : self.end])
        for populator in self.populators:
            populator.populate(row, built)
        return built

    def _converted(self, row: Any) -> list[Any]:
        """What Django's compiler does for many rows, for one; most JSON is empty, and need not be parsed to be known so."""
        values = list(row)
        for index, functions, expression, is_json in self.converters:
            value = values[index]
            if is_json and isinstance(value, str) and value in EMPTY:
                values[index] = EMPTY[value]()
                continue
            for function in functions:
                value = function(value, expression, connection)
            values[index] = value
        return values
