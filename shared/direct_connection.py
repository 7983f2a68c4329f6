"""One connection to Postgres that carries one call at a time, on libpq as psycopg has it in `psycopg.pq`.

A cursor's general machinery costs a call more than the round trip itself. What a worker needs is little: send one
statement with its values, hear when the socket can be read, take the one row.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, cast

import orjson
import psycopg
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus, Format
from psycopg.pq.abc import Buffer, PGresult
from psycopg.types.json import Jsonb

from shared.runs.models import Json

_JSONB: Final = 3802
_JSON: Final = frozenset({114, _JSONB})

Connection = psycopg.AsyncConnection[tuple[object, ...]]
Values = tuple[Sequence[Buffer | None], Sequence[int] | None, Sequence[Format] | None]


class Refused(Exception):  # noqa: N818 - what the database did
    """The database's own word on a call. `sqlstate` None: the connection broke, and whether it committed is unknown."""

    def __init__(self, result: PGresult) -> None:
        self.sqlstate = _field(result, DiagnosticField.SQLSTATE)
        self.message = _field(result, DiagnosticField.MESSAGE_PRIMARY)
        self.details = _field(result, DiagnosticField.MESSAGE_DETAIL)
        self.hint = _field(result, DiagnosticField.MESSAGE_HINT)
        super().__init__(self.message)


class DirectConnection:
    """Wraps a psycopg connection in autocommit. Nobody else may wait on it until it is released."""

    def __init__(self, connection: Connection, *, call_seconds: float) -> None:
        self.connection = connection
        self._call_seconds = call_seconds
        self._libpq = connection.pgconn
        self._loop = asyncio.get_running_loop()
        self.since = self.used_at = self._loop.time()
        self._result: PGresult | None = None
        self._answer: asyncio.Future[PGresult] | None = None
        self._call_ends = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._lost = False
        self._socket = self._libpq.socket
        self._loop.add_reader(self._socket, self._readable)

    @property
    def usable(self) -> bool:
        """Whether another call may be sent: the connection stands, and nothing of an earlier call is to come."""
        return not self._lost and self._answer is None and self._libpq.status == ConnStatus.OK

    @property
    def is_calling(self) -> bool:
        """Whether the server may be at a call that nobody waits for any more."""
        return self._answer is not None and self._libpq.status == ConnStatus.OK

    def looked_at(self) -> DirectConnection:
        """Itself, knowing what the server may have said since somebody last listened: that it hung up, say."""
        for _ in range(2):  # one read may bring its last words alone
            self._readable()
        return self

    async def call(self, statement: bytes, values: Sequence[object]) -> Json:
        """The one value of the one row that the statement answers; None without a row.

        Raises:
            Refused: the database refused, or the connection broke meanwhile.
            psycopg.Error: a value cannot be sent, or the connection was broken before.
            TimeoutError: it took longer than `call_seconds`; whether it committed is unknown.
        """
        given, types, formats = self._dumped(values)
        answer = self._answer = self._loop.create_future()
        self._call_ends = self._loop.time() + self._call_seconds
        if self._timer is None:
            self._timer = self._loop.call_at(self._call_ends, self._look_at_the_time)
        try:
            self._libpq.send_query_params(statement, given, types, formats)
            self._send_the_rest()
            result = await answer
        except BaseException:
            self._lost = True  # its answer would be taken for that of the next call
            raise
        self._answer = None
        self.used_at = self._call_ends - self._call_seconds
        return self._loaded(result)

    def release(self) -> Connection:
        """The connection, for others to wait on or to close."""
        if self._timer is not None:
            self._timer.cancel()
        self._stop_listening()
        return self.connection

    # -- what happens on the socket -------------------------------------------------------------------------------

    def _send_the_rest(self) -> None:
        """Hand what is left of a call to the socket, which may take a large one in pieces."""
        if self._libpq.flush():
            self._loop.add_writer(self._socket, self._writable)

    def _writable(self) -> None:
        try:
            if not self._libpq.flush():
                self._loop.remove_writer(self._socket)
        except psycopg.OperationalError as error:
            self._break(error)
            return
        # A server that cannot get rid of its notices reads nothing; and what is sent here may be answered right away.
        self._readable()

    def _readable(self) -> None:
        libpq = self._libpq
        if self._socket < 0:
            return
        try:
            libpq.consume_input()  # sends what is left, too
            while not libpq.is_busy():
                result = libpq.get_result()
                if result is None:
                    break
                self._result = self._result or result  # a broken connection has a second one, which says less
            else:
                return
        except psycopg.OperationalError as error:
            self._break(error)
            return
        if self._answer is None:  # nobody asked: the server closes an idle connection, or tells something
            if libpq.status != ConnStatus.OK:
                self._break(None)
            return
        result, self._result = self._result, None
        if result is not None and not self._answer.done():
            self._answer.set_result(result)

    def _break(self, error: psycopg.OperationalError | None) -> None:
        self._lost = True
        self._stop_listening()
        if self._result is None and not self._libpq.is_busy():
            self._result = self._libpq.get_result()  # what came together with the end
        if self._answer is None or self._answer.done():
            return
        if self._result is not None:
            self._answer.set_result(self._result)  # the server said why, before it hung up
        elif error is not None:
            self._answer.set_exception(error)

    def _stop_listening(self) -> None:
        if self._socket >= 0:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket = -1

    def _look_at_the_time(self) -> None:
        """One timer for many calls: it is not touched when a call ends in time, as they all do."""
        self._timer = None
        if self._answer is None or self._answer.done():
            return
        if self._loop.time() < self._call_ends:
            self._timer = self._loop.call_at(self._call_ends, self._look_at_the_time)
        else:
            self._answer.set_exception(TimeoutError())

    # -- values -----------------------------------------------------------------------------------------------------

    def _dumped(self, values: Sequence[object]) -> Values:
        """The values as libpq sends them; JSON is made here, everything else by psycopg's adapters."""
        if len(values) == 1 and isinstance(values[0], Jsonb):
            return (orjson.dumps(values[0].obj),), (_JSONB,), None
        transformer = Transformer(self.connection)
        given = transformer.dump_sequence(values, [PyFormat.AUTO] * len(values))
        return given, transformer.types, transformer.formats

    def _loaded(self, result: PGresult) -> Json:
        if result.status != ExecStatus.TUPLES_OK:
            raise Refused(result)
        value = result.get_value(0, 0) if result.ntuples else None
        if value is None:
            return None
        kind = result.ftype(0)
        if kind in _JSON:
            return cast("Json", orjson.loads(value))
        loader = self.connection.adapters.get_loader(kind, Format.TEXT)
        return cast("Json", bytes(value).decode() if loader is None else loader(kind, self.connection).load(value))


def _field(result: PGresult, field: DiagnosticField) -> str | None:
    value = result.error_field(field)
    return None if value is None else value.decode(errors="replace")
