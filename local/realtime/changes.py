"""Row changes to their subscribers: matched by filter, checked against RLS as each subscriber.

Every subscriber gets each row that it may see once, and all of them in commit order.
"""

from __future__ import annotations

import itertools
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import orjson

from local.realtime.authorization import Identity
from local.realtime.catalog import Catalog, Reader, Table
from local.realtime.filter_syntax import FilterSyntaxError
from local.realtime.filters import Filter, InvalidFilter, make_filters, require_columns
from local.realtime.judge import Asked, Judge, Question
from local.realtime.payload import change_payload, error_payload
from local.realtime.pgoutput import UNCHANGED, Change
from local.realtime.requests import MalformedRequest, Request, parse_request
from local.realtime.visibility import Visibility, can_look_up
from local.services import Pool

PUBLICATION = "supabase_realtime"

_log = logging.getLogger("local.realtime")
_ids = itertools.count(1)  # clients take 0 for "no id"


class NotSubscribed(Exception):  # noqa: N818 - reads as what it says
    """A request cannot be served, now or ever; the message is for the subscriber."""


class Listener(Protocol):
    """A channel, as far as changes concern it."""

    def push(self, event: str, payload: Mapping[str, Any]) -> None: ...

    def system(self, status: Literal["ok", "error"], message: str, *, extension: str = ...) -> None: ...


@dataclass(frozen=True, slots=True, eq=False)
class Subscription:
    """A checked request. It keeps the identity it was checked for; a new token makes a new subscription.

    `filters` are by table: a request may be for all of a schema. A table that was published later is not filtered on,
    so a filtered subscription does not know it.
    """

    id: int
    listener: Listener
    identity: Identity
    request: Request
    filters: Mapping[int, tuple[Filter, ...]] = field(default_factory=dict[int, tuple[Filter, ...]])

    def wants(self, change: Change) -> bool:
        """Whether the change is of the kind and the table."""
        request, relation = self.request, change.relation
        return (
            request.event in {"*", change.kind}
            and request.schema in {"*", relation.schema}
            and request.table in {"*", relation.name}
            and (not request.filter or relation.oid in self.filters)
        )

    def open_questions(self, change: Change) -> set[Asked] | None:
        """What is left to ask for the row to pass the filters; None if it does not pass."""
        row = change.new if change.new is not None else change.old or {}
        asked: set[Asked] = set()
        for condition in self.filters.get(change.relation.oid, ()):
            value = row.get(condition.column, UNCHANGED)
            # What the log does not hold passes no filter. A question is asked of the database, all else decided here.
            if value is UNCHANGED or not (condition.holds is None or condition.holds(value)):
                return None
            if condition.question is not None:
                asked.add((condition.question, value))
        return asked


def next_id() -> int:
    """An id for a subscription, never given twice by this server."""
    return next(_ids)


Found = tuple[Change, list[Subscription]]


class ChangeFeed:
    """The subscriptions to row changes, and their delivery."""

    def __init__(self, pool: Pool, admin_pool: Pool) -> None:
        self._catalog = Catalog(admin_pool)
        self._judge = Judge(admin_pool)
        self._visibility = Visibility(pool, admin_pool, self._catalog)
        self._subscriptions: dict[tuple[str, str], dict[int, Subscription]] = defaultdict(dict)

    async def subscribe(
        self, listener: Listener, identity: Identity, requests: Mapping[int, Mapping[str, Any]]
    ) -> None:
        """Check the requests of a channel and register them, all or none, in the place of those with their ids.

        Every row committed after the return is seen, as long as the stream is up.

        Raises:
            NotSubscribed: a request cannot be served.
        """
        checked = [await self._check(id_, listener, identity, params) for id_, params in requests.items()]
        self.unsubscribe(requests)
        for subscription in checked:
            key = (subscription.request.schema, subscription.request.table)
            self._subscriptions[key][subscription.id] = subscription

    def unsubscribe(self, ids: Iterable[int]) -> None:
        """Forget the subscriptions; unknown ones are none."""
        gone = set(ids)
        for key, subscriptions in list(self._subscriptions.items()):
            for id_ in gone & subscriptions.keys():
                del subscriptions[id_]
            if not subscriptions:
                del self._subscriptions[key]

    async def deliver(self, changes: Sequence[Change]) -> None:
        """Send each change to whom it concerns and may see it.

        Raises:
            psycopg.OperationalError: the database is away; nothing of the batch was delivered.
        """
        wanted = await self._filtered(changes)
        if not wanted:
            return
        seen = await self._visibility.check(
            [
                ((position, change), {subscription.identity for subscription in subscriptions})
                for position, (change, subscriptions) in enumerate(wanted)
            ]
        )
        for position, (change, subscriptions) in enumerate(wanted):
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

    async def _check(self, id_: int, listener: Listener, identity: Identity, params: Mapping[str, Any]) -> Subscription:
        try:
            request = parse_request(params)
            filters = await self._filters(request, identity)
        except MalformedRequest as exc:
            raise NotSubscribed(str(exc)) from exc
        except FilterSyntaxError as exc:
            raise NotSubscribed(f"Error parsing `filter` params: {exc}") from exc
        return Subscription(id_, listener, identity, request, filters)

    async def _filters(self, request: Request, identity: Identity) -> Mapping[int, tuple[Filter, ...]]:
        oids = await self._catalog.read_published(PUBLICATION, request.schema, request.table)
        parameters = "Unable to subscribe to changes with given parameters."
        if not oids:
            raise NotSubscribed(
                f"{parameters} Please check Realtime is enabled for the given connect parameters: {request}"
            )
        filters: dict[int, tuple[Filter, ...]] = {}
        try:
            for oid in oids if request.filter or request.select is not None else ():
                reader = await self._catalog.read_reader(oid, identity.role)
                table = await self._catalog.read_table(oid)
                require_columns(request.select or (), reader)
                filters[oid] = await make_filters(request.filter, table.seen_by(reader), self._judge)
        except InvalidFilter as exc:
            raise NotSubscribed(
                f"{parameters} An exception happened so please check your connect parameters: {request}."
                f" Exception: {exc}"
            ) from exc
        return filters

    async def _filtered(self, changes: Sequence[Change]) -> list[Found]:
        """The changes that somebody wants, each with those whose filters it passes."""
        found = [(change, self._candidates(change)) for change in changes]
        asked = {one for _, candidates in found for _, questions in candidates for one in questions}
        answers, failed = await self._judge.ask_each(asked)
        for question, error in failed.items():
            _log.warning("realtime.filter_failed error=%s", str(error).strip())
            self._end_all(question)
        passed = [
            (change, [one for one, questions in candidates if all(answers.get(asked, False) for asked in questions)])
            for change, candidates in found
        ]
        return [(change, subscriptions) for change, subscriptions in passed if subscriptions]

    def _candidates(self, change: Change) -> list[tuple[Subscription, set[Asked]]]:
        """The subscriptions that the change may be for, each with what must be asked first."""
        schema, name = change.relation.schema, change.relation.name
        keys = ((schema, name), (schema, "*"), ("*", name), ("*", "*"))
        wanting = [one for key in keys for one in self._subscriptions.get(key, {}).values() if one.wants(change)]
        candidates: list[tuple[Subscription, set[Asked]]] = []
        for subscription in wanting:
            try:
                questions = subscription.open_questions(change)
            except (ValueError, ArithmeticError):
                # The column has another type by now. The subscription ends alone: the stream is everybody's.
                _log.exception("realtime.filter_failed request=%s", subscription.request)
                self._end(subscription)
                continue
            if questions is not None:
                candidates.append((subscription, questions))
        return candidates

    def _end_all(self, question: Question) -> None:
        """End every subscription that asks what cannot be answered."""
        for subscription in [one for by_id in self._subscriptions.values() for one in by_id.values()]:
            if any(
                condition.question == question for filters in subscription.filters.values() for condition in filters
            ):
                self._end(subscription)

    def _end(self, subscription: Subscription) -> None:
        self.unsubscribe([subscription.id])
        message = f"The filter could not be applied to a row and the subscription has ended: {subscription.request}"
        subscription.listener.system("error", message)

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
    # Nobody looks for a row that was deleted, so its key is not needed.
    if change.kind != "DELETE" and not table.primary_key:
        return error_payload(change, "Error 400: Bad Request, no primary key")
    if change.kind != "DELETE" and not can_look_up(table, reader):
        return error_payload(change, "Error 401: Unauthorized")
    columns = reader.columns
    if select is not None:
        columns = columns & {*select, *(column.name for column in table.primary_key)}
    return change_payload(change, table, columns)
