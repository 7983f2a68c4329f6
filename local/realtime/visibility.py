"""Which of the listeners may see which rows: the tables' own policies are asked, as each listener.

A batch costs one query per table and distinct identity, however many rows and channels it has, and few round trips. As
on Supabase a row must be visible when it is looked at, a moment after its commit. The deletion of a row, which nobody
can look at any more, is told to everyone; what is told of it is the caller's to limit.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import LiteralString

import psycopg
from psycopg import sql

from local.realtime.authorization import Identity, become, has_become
from local.realtime.catalog import Catalog, Reader, Table
from local.realtime.database import is_away
from local.realtime.pgoutput import Change, Relation, Row
from local.services import Pool

CHECKS_AT_ONCE = 4  # connections that one batch may use
VISIBLE_SECONDS, VISIBLE_RETRY_SECONDS = 5.0, 0.001

_SNAPSHOT: LiteralString = """
select pg_snapshot_xmax(s)::text::int8, array(select x::text::int8 from pg_snapshot_xip(s) as x)
from pg_current_snapshot() as s
"""
_log = logging.getLogger("local.realtime")

Question = tuple[int, Change]  # a change and its position in the batch


@dataclass(frozen=True, slots=True)
class Seen:
    """The answer for a batch. `failed` are the identities for which a policy could not be asked at all."""

    visible: set[tuple[int, Identity]] = field(default_factory=set[tuple[int, Identity]])
    failed: set[Identity] = field(default_factory=set[Identity])


class Visibility:
    """Asks the policies of the tables."""

    def __init__(self, pool: Pool, admin_pool: Pool, catalog: Catalog) -> None:
        self._pool = pool
        self._admin_pool = admin_pool
        self._catalog = catalog

    async def check(self, questions: Sequence[tuple[Question, AbstractSet[Identity]]]) -> Seen:
        """Find out which of its identities may be told of each change.

        Somebody who may not even read a table's key counts as one to be told: that there was something.

        Raises:
            psycopg.OperationalError: the database is away.
        """
        seen = Seen()
        asked: dict[Identity, dict[Relation, list[Question]]] = defaultdict(lambda: defaultdict(list))
        for (position, change), identities in questions:
            table = await self._catalog.table(change.relation)
            if not table.columns:  # dropped since
                continue
            for identity in identities:
                reader = await self._catalog.reader(change.relation, identity.role)
                if change.kind != "DELETE" and table.has_rls and not reader.bypasses_rls and can_look_up(table, reader):
                    asked[identity][change.relation].append((position, change))
                else:
                    seen.visible.add((position, identity))
        if asked:
            await self._await_visible({change.xid for (_, change), _ in questions})
            await self._ask(asked, seen)
        return seen

    async def _await_visible(self, xids: AbstractSet[int]) -> None:
        """Wait until new snapshots see these transactions.

        A commit is in the log, and so here, a moment before the server shows its rows to others. Looked up in that
        moment they would seem to be hidden by a policy.
        """
        deadline = time.monotonic() + VISIBLE_SECONDS
        while True:
            async with self._admin_pool.connection() as connection:
                row = await (await connection.execute(_SNAPSHOT)).fetchone()
            if row is None or not any(_in_progress(xid, row[0], row[1]) for xid in xids):
                return
            if time.monotonic() > deadline:
                _log.warning("realtime.commit_not_visible xids=%s", sorted(xids))
                return
            await asyncio.sleep(VISIBLE_RETRY_SECONDS)

    async def _ask(self, asked: Mapping[Identity, Mapping[Relation, Sequence[Question]]], seen: Seen) -> None:
        lookups = {relation: await self._lookup(relation) for by_relation in asked.values() for relation in by_relation}
        wishes = [
            _Wish(identity, relation, rows, lookups[relation])
            for identity, by_relation in asked.items()
            for relation, rows in by_relation.items()
        ]
        # All are waited for, even when one fails: none may go on behind the back of a stream that starts anew.
        groups = [wishes[number::CHECKS_AT_ONCE] for number in range(min(CHECKS_AT_ONCE, len(wishes)))]
        outcomes = await asyncio.gather(*(self._ask_group(group, seen) for group in groups), return_exceptions=True)
        for outcome in outcomes:
            if outcome is not None:
                raise outcome

    async def _ask_group(self, group: Sequence[_Wish], seen: Seen) -> None:
        """Ask for several at once; if that fails, for each alone, so that it fails only for those that it must."""
        try:
            await self._ask_all(group, seen)
        except psycopg.Error as exc:
            if is_away(exc):
                raise
            if len(group) > 1:
                for wish in group:
                    await self._ask_group([wish], seen)
                return
            identity = group[0].identity
            _log.warning("realtime.rls_check_failed role=%s error=%s", identity.role, str(exc).strip())
            seen.failed.add(identity)

    async def _ask_all(self, group: Sequence[_Wish], seen: Seen) -> None:
        """One transaction and one round trip, in which the session is one listener after the other."""
        async with self._pool.connection() as connection, connection.pipeline(), connection.transaction():
            cursors = [
                (await become(connection, wish.identity), await connection.execute(wish.lookup.statement, wish.keys()))
                for wish in group
            ]
            found: list[list[int]] = [[row[0] for row in await answers.fetchall()] for _, answers in cursors]
        for wish, (became, _), numbers in zip(group, cursors, found, strict=True):
            if has_become(became):
                seen.visible.update((wish.rows[number - 1][0], wish.identity) for number in numbers)
            else:
                _log.warning("realtime.rls_check_failed role=%s error=there is no such role", wish.identity.role)
                seen.failed.add(wish.identity)

    async def _lookup(self, relation: Relation) -> _Lookup:
        table = await self._catalog.table(relation)
        return _Lookup(_statement(relation, table), [column.name for column in table.primary_key])


@dataclass(frozen=True, slots=True)
class _Lookup:
    """How rows of a table are looked up by its key."""

    statement: sql.Composed
    key: Sequence[str]


@dataclass(frozen=True, slots=True)
class _Wish:
    """Somebody who is to be told of rows of a table, if they may see them."""

    identity: Identity
    relation: Relation
    rows: Sequence[Question]
    lookup: _Lookup

    def keys(self) -> list[list[str | None]]:
        return [[_key(change.new, column) for _, change in self.rows] for column in self.lookup.key]


def can_look_up(table: Table, reader: Reader) -> bool:
    """Whether the reader may find rows of the table by their key."""
    return bool(table.primary_key) and all(column.name in reader.columns for column in table.primary_key)


def _statement(relation: Relation, table: Table) -> sql.Composed:
    """Positions, from 1, of the keys whose rows are visible. One array of text for each key column."""
    names = [sql.Identifier(f"key_{number}") for number in range(len(table.primary_key))]
    return sql.SQL(
        "select keys.position from unnest({arrays}) with ordinality as keys ({names}, position)"
        " where exists (select from {table} as the_row where {same})"
    ).format(
        arrays=sql.SQL(", ").join(sql.SQL("%s::text[]") for _ in names),
        names=sql.SQL(", ").join(names),
        table=sql.Identifier(relation.schema, relation.name),
        same=sql.SQL(" and ").join(
            sql.SQL("the_row.{} = keys.{}::{}").format(
                sql.Identifier(column.name),
                name,
                sql.SQL(column.sql_type),  # pyright: ignore[reportArgumentType] - quoted by the server itself
            )
            for column, name in zip(table.primary_key, names, strict=True)
        ),
    )


def _key(row: Row | None, column: str) -> str | None:
    value = row.get(column) if row is not None else None
    return value if isinstance(value, str) else None


def _in_progress(xid: int, xmax: int, running: Collection[int]) -> bool:
    """Whether a snapshot, which counts transactions in 64 bits, takes the 32-bit xid for unfinished."""
    distance = (xid - xmax) & 0xFFFFFFFF
    full = xmax + distance - (1 << 32 if distance >= 1 << 31 else 0)
    return full >= xmax or full in running
