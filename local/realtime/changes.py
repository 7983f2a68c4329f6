"""Row changes to their subscribers: matched by filter, checked against RLS as each subscriber, in commit order.

A batch of changes costs one query per table and distinct identity, however many rows and channels it has. As on
Supabase a row must be visible when it is looked at, which is a moment after its commit; and the deletion of a row,
which nobody can look at any more, is told to everyone with its primary key only.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Literal, LiteralString, Protocol, cast

import orjson
import psycopg
from psycopg import sql

from local.realtime.authorization import Identity, Refused, impersonate
from local.realtime.catalog import Catalog, Reader, Table
from local.realtime.filters import Filter, InvalidFilter, parse_filters
from local.realtime.payload import change_payload, error_payload
from local.realtime.pgoutput import Change, Row
from local.services import Pool

PUBLICATION = "supabase_realtime"
CHECKS_AT_ONCE = 4  # connections that one batch may use
VISIBLE_SECONDS, VISIBLE_RETRY_SECONDS = 5.0, 0.001
_SNAPSHOT: LiteralString = """
select pg_snapshot_xmax(s)::text::int8, array(select x::text::int8 from pg_snapshot_xip(s) as x)
from pg_current_snapshot() as s
"""

_log = logging.getLogger("local.realtime")
_ids = itertools.count(1)  # clients take 0 for "no id"


class Listener(Protocol):
    """A channel, as far as changes concern it."""

    def push(self, event: str, payload: Mapping[str, Any]) -> None: ...

    def system(self, status: Literal["ok", "error"], message: str, *, extension: str = ...) -> None: ...


@dataclass(frozen=True, slots=True)
class Request:
    """One entry of a join's `postgres_changes`, as the client wrote it."""

    event: str
    schema: str
    table: str
    filter: str
    select: tuple[str, ...] | None

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Request:
        select: object = params.get("select")
        return cls(
            event=str(params.get("event", "*")).upper(),
            schema=str(params.get("schema") or "public"),
            table=str(params.get("table") or "*"),
            filter=str(params.get("filter") or ""),
            select=tuple(map(str, cast("list[object]", select))) if isinstance(select, list) else None,
        )

    def __str__(self) -> str:
        filtered = f", filter: {self.filter}" if self.filter else ""
        return f"[event: {self.event}, schema: {self.schema}, table: {self.table}{filtered}]"


@dataclass(frozen=True, slots=True, eq=False)
class Subscription:
    """A checked request. It keeps the identity it was checked for; a new token makes a new subscription."""

    id: int
    listener: Listener
    identity: Identity
    request: Request
    filters: tuple[Filter, ...] = ()

    def wants(self, change: Change) -> bool:
        request, relation = self.request, change.relation
        row = change.new if change.new is not None else change.old
        return (
            request.event in {"*", change.kind}
            and request.schema in {"*", relation.schema}
            and request.table in {"*", relation.name}
            and row is not None
            and all(condition.matches(row) for condition in self.filters)
        )


def next_id() -> int:
    """An id for a subscription, never given twice by this server."""
    return next(_ids)


@dataclass(slots=True)
class _Batch:
    """What is found out about one batch. Positions are those of the changes."""

    wanted: list[tuple[int, Change, list[Subscription]]]
    tables: dict[int, Table] = field(default_factory=dict[int, Table])
    visible: set[tuple[int, Identity]] = field(default_factory=set[tuple[int, Identity]])
    unreadable: set[Identity] = field(default_factory=set[Identity])


class ChangeFeed:
    """The subscriptions to row changes, and their delivery."""

    def __init__(self, pool: Pool, admin_pool: Pool) -> None:
        self._pool = pool
        self._admin_pool = admin_pool
        self._catalog = Catalog(admin_pool)
        self._subscriptions: dict[tuple[str, str], dict[int, Subscription]] = defaultdict(dict)

    async def subscribe(self, listener: Listener, identity: Identity, requests: Mapping[int, Request]) -> None:
        """Check the requests of a channel and register them, all or none, in the place of those with their ids.

        Every row committed after the return is seen, as long as the stream is up.

        Raises:
            InvalidFilter: the request cannot be served; the message is for the subscriber.
        """
        checked = [await self._check(id_, listener, identity, request) for id_, request in requests.items()]
        for subscription in checked:
            key = (subscription.request.schema, subscription.request.table)
            self._subscriptions[key][subscription.id] = subscription

    def unsubscribe(self, requests: Mapping[int, Request]) -> None:
        """Forget the subscriptions; unknown ones are none."""
        for id_, request in requests.items():
            key = (request.schema, request.table)
            subscriptions = self._subscriptions.get(key)
            if subscriptions is not None:
                subscriptions.pop(id_, None)
                if not subscriptions:
                    del self._subscriptions[key]

    async def deliver(self, changes: Sequence[Change]) -> None:
        """Send each change to whom it concerns and may see it.

        Raises:
            psycopg.OperationalError: the database is away; nothing of the batch was delivered.
        """
        wanted = [
            (position, change, subscriptions)
            for position, change in enumerate(changes)
            if (subscriptions := self._matching(change))
        ]
        if not wanted:
            return
        batch = _Batch(wanted)
        await self._check_visibility(batch)
        for position, change, subscriptions in wanted:
            await self._send(batch, position, change, subscriptions)
        for identity in batch.unreadable:
            self._tell_unreadable(identity, wanted)

    async def _check(self, id_: int, listener: Listener, identity: Identity, request: Request) -> Subscription:
        oids = await self._catalog.read_published(PUBLICATION, request.schema, request.table)
        if not oids:
            raise InvalidFilter(f"Please check Realtime is enabled for the given connect parameters: {request}")
        if not request.filter and request.select is None:
            return Subscription(id_, listener, identity, request)
        if request.table == "*" or request.schema == "*":
            raise InvalidFilter(f"a filter or select needs one table: {request}")
        table = await self._catalog.read_table(oids[0])
        reader = await self._catalog.read_reader(oids[0], identity.role)
        for column in request.select or ():
            if column not in reader.columns:
                raise InvalidFilter(f"invalid column for select {column}")
        filters = await parse_filters(request.filter, table, self._admin_pool)
        for condition in filters:
            if condition.column not in reader.columns:
                raise InvalidFilter(f"invalid column for filter {condition.column}")
        return Subscription(id_, listener, identity, request, filters)

    def _matching(self, change: Change) -> list[Subscription]:
        schema, name = change.relation.schema, change.relation.name
        keys = ((schema, name), (schema, "*"), ("*", name), ("*", "*"))
        return [
            subscription
            for key in keys
            for subscription in self._subscriptions.get(key, {}).values()
            if subscription.wants(change)
        ]

    async def _check_visibility(self, batch: _Batch) -> None:
        """Find out who may see what: one query per table and identity where RLS decides."""
        asked: dict[Identity, dict[int, list[tuple[int, Change]]]] = defaultdict(lambda: defaultdict(list))
        for position, change, subscriptions in batch.wanted:
            table = await self._catalog.table(change.relation)
            batch.tables[position] = table
            for identity in {subscription.identity for subscription in subscriptions}:
                reader = await self._catalog.reader(change.relation, identity.role)
                if change.kind == "DELETE" or not table.has_rls or reader.bypasses_rls:
                    batch.visible.add((position, identity))
                elif _can_look_up(table, reader):
                    asked[identity][change.relation.oid].append((position, change))
                else:
                    batch.visible.add((position, identity))  # to be told that they may not read it
        if not asked:
            return
        await self._await_visible(
            {change.xid for by_table in asked.values() for rows in by_table.values() for _, change in rows}
        )
        slots = asyncio.Semaphore(CHECKS_AT_ONCE)

        async def check(identity: Identity, by_table: Iterable[list[tuple[int, Change]]]) -> None:
            async with slots:
                await self._look(identity, by_table, batch)

        await asyncio.gather(*(check(identity, by_table.values()) for identity, by_table in asked.items()))

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

    async def _look(self, identity: Identity, by_table: Iterable[list[tuple[int, Change]]], batch: _Batch) -> None:
        try:
            async with self._pool.connection() as connection, connection.transaction():
                await impersonate(connection, identity)
                for rows in by_table:
                    position, change = rows[0]
                    query = _lookup(change, batch.tables[position])
                    keys = [column.name for column in batch.tables[position].primary_key]
                    values = [[_key_value(row.new, key) for _, row in rows] for key in keys]
                    cursor = await connection.execute(query, values)
                    found: list[tuple[int]] = await cursor.fetchall()
                    batch.visible.update((rows[number - 1][0], identity) for (number,) in found)
        except psycopg.OperationalError as exc:
            if exc.sqlstate is None or exc.sqlstate.startswith(("08", "57P")):
                raise
            self._note_unreadable(identity, exc, batch)
        except (psycopg.Error, Refused) as exc:
            self._note_unreadable(identity, exc, batch)

    def _note_unreadable(self, identity: Identity, error: Exception, batch: _Batch) -> None:
        _log.warning("realtime.rls_check_failed role=%s error=%s", identity.role, error)
        batch.unreadable.add(identity)

    def _tell_unreadable(self, identity: Identity, wanted: Iterable[tuple[int, Change, list[Subscription]]]) -> None:
        listeners = {
            subscription.listener
            for _, _, subscriptions in wanted
            for subscription in subscriptions
            if subscription.identity == identity
        }
        for listener in listeners:
            listener.system("error", "Rows could not be checked against the table's policies and were not sent")

    async def _send(self, batch: _Batch, position: int, change: Change, subscriptions: Iterable[Subscription]) -> None:
        """Send one change, once to each channel, with the ids of all its subscriptions that match."""
        ids: dict[tuple[Listener, str, tuple[str, ...] | None], list[int]] = defaultdict(list)
        for subscription in subscriptions:
            if (position, subscription.identity) in batch.visible:
                audience = (subscription.listener, subscription.identity.role, subscription.request.select)
                ids[audience].append(subscription.id)
        payloads: dict[tuple[str, tuple[str, ...] | None], orjson.Fragment] = {}
        for (listener, role, select), matched in ids.items():
            key = (role, select)
            if key not in payloads:
                reader = await self._catalog.reader(change.relation, role)
                payloads[key] = _payload(change, batch.tables[position], reader, select)
            listener.push("postgres_changes", {"ids": matched, "data": payloads[key]})


def _payload(change: Change, table: Table, reader: Reader, select: tuple[str, ...] | None) -> orjson.Fragment:
    if not table.primary_key:
        return error_payload(change, "Error 400: Bad Request, no primary key")
    if not _can_look_up(table, reader):
        return error_payload(change, "Error 401: Unauthorized")
    columns = reader.columns
    if select is not None:
        columns = columns & {*select, *(column.name for column in table.primary_key)}
    return change_payload(change, table, columns)


def _in_progress(xid: int, xmax: int, running: Collection[int]) -> bool:
    """Whether a snapshot, which counts transactions in 64 bits, takes the 32-bit xid for unfinished."""
    distance = (xid - xmax) & 0xFFFFFFFF
    full = xmax + distance - (1 << 32 if distance >= 1 << 31 else 0)
    return full >= xmax or full in running


def _can_look_up(table: Table, reader: Reader) -> bool:
    return bool(table.primary_key) and all(column.name in reader.columns for column in table.primary_key)


def _lookup(change: Change, table: Table) -> sql.Composed:
    """Positions, from 1, of the keys whose rows are visible. One array of text for each key column."""
    names = [sql.Identifier(f"key_{number}") for number in range(len(table.primary_key))]
    return sql.SQL(
        "select keys.position from unnest({arrays}) with ordinality as keys ({names}, position)"
        " where exists (select from {table} as the_row where {same})"
    ).format(
        arrays=sql.SQL(", ").join(sql.SQL("%s::text[]") for _ in names),
        names=sql.SQL(", ").join(names),
        table=sql.Identifier(change.relation.schema, change.relation.name),
        same=sql.SQL(" and ").join(
            sql.SQL("the_row.{} = keys.{}::{}").format(
                sql.Identifier(column.name),
                name,
                sql.SQL(column.sql_type),  # pyright: ignore[reportArgumentType] - quoted by the server itself
            )
            for column, name in zip(table.primary_key, names, strict=True)
        ),
    )


def _key_value(row: Row | None, key: str) -> str | None:
    value = row.get(key) if row is not None else None
    return value if isinstance(value, str) else None
