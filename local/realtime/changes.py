"""Row changes to their subscribers: matched by filter, checked against RLS as each subscriber.

Every subscriber gets each row that it may see once, and all of them in commit order.
"""

from __future__ import annotations

import itertools
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import orjson

from local.realtime.authorization import Identity
from local.realtime.catalog import Catalog, Reader, Table
from local.realtime.filters import Filter, InvalidFilter, parse_filters
from local.realtime.payload import change_payload, error_payload
from local.realtime.pgoutput import Change
from local.realtime.visibility import Visibility, can_look_up
from local.services import Pool

PUBLICATION = "supabase_realtime"

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


class ChangeFeed:
    """The subscriptions to row changes, and their delivery."""

    def __init__(self, pool: Pool, admin_pool: Pool) -> None:
        self._admin_pool = admin_pool
        self._catalog = Catalog(admin_pool)
        self._visibility = Visibility(pool, admin_pool, self._catalog)
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
            ((position, change), subscriptions)
            for position, change in enumerate(changes)
            if (subscriptions := self._matching(change))
        ]
        if not wanted:
            return
        seen = await self._visibility.check(
            [
                (question, {subscription.identity for subscription in subscriptions})
                for question, subscriptions in wanted
            ]
        )
        for (position, change), subscriptions in wanted:
            visible = [
                subscription for subscription in subscriptions if (position, subscription.identity) in seen.visible
            ]
            await self._send(change, visible)
        unchecked = {
            subscription.listener
            for _, subscriptions in wanted
            for subscription in subscriptions
            if subscription.identity in seen.failed
        }
        for listener in unchecked:
            listener.system("error", "Rows could not be checked against the table's policies and were not sent")

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
        candidates = [subscription for key in keys for subscription in self._subscriptions.get(key, {}).values()]
        return [subscription for subscription in candidates if self._wants(subscription, change)]

    def _wants(self, subscription: Subscription, change: Change) -> bool:
        """Ask a subscription. One whose filter breaks on a row ends alone: the stream is everybody's."""
        try:
            return subscription.wants(change)
        except Exception:  # noqa: BLE001 - whatever it is, it stays with this subscription
            _log.exception("realtime.filter_failed request=%s", subscription.request)
        self.unsubscribe({subscription.id: subscription.request})
        message = f"The filter could not be applied to a row and the subscription has ended: {subscription.request}"
        subscription.listener.system("error", message)
        return False

    async def _send(self, change: Change, subscriptions: Iterable[Subscription]) -> None:
        """Send one change, once to each channel, with the ids of all its subscriptions that match."""
        ids: dict[tuple[Listener, str, tuple[str, ...] | None], list[int]] = defaultdict(list)
        for subscription in subscriptions:
            audience = (subscription.listener, subscription.identity.role, subscription.request.select)
            ids[audience].append(subscription.id)
        table = await self._catalog.table(change.relation)
        payloads: dict[tuple[str, tuple[str, ...] | None], orjson.Fragment] = {}
        for (listener, role, select), matched in ids.items():
            key = (role, select)
            if key not in payloads:
                reader = await self._catalog.reader(change.relation, role)
                payloads[key] = _payload(change, table, reader, select)
            listener.push("postgres_changes", {"ids": matched, "data": payloads[key]})


def _payload(change: Change, table: Table, reader: Reader, select: tuple[str, ...] | None) -> orjson.Fragment:
    if not table.primary_key:
        return error_payload(change, "Error 400: Bad Request, no primary key")
    if not can_look_up(table, reader):
        return error_payload(change, "Error 401: Unauthorized")
    columns = reader.columns
    if select is not None:
        columns = columns & {*select, *(column.name for column in table.primary_key)}
    return change_payload(change, table, columns)
