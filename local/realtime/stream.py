"""The write-ahead log as a stream of row changes: logical replication over a plain psycopg connection.

The server pushes each transaction as it commits, so nothing is polled and an idle stream costs nothing. The slot is
temporary: it lives and dies with the connection, whichever end goes first, and is never left behind.
"""

from __future__ import annotations

import asyncio
import secrets
import struct
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import psycopg
from psycopg import pq, sql
from psycopg.conninfo import make_conninfo

from local.realtime.pgoutput import Change, Decoder, PgoutputError

CONNECT_SECONDS = 5
REPORT_SECONDS = 10.0  # how often the server is told what was received; it gives up after 60 s
# So that one huge transaction is delivered in parts and not held in memory.
BATCH_CHANGES, BATCH_BYTES = 250, 1024 * 1024

_POSTGRES_EPOCH = 946_684_800  # seconds from 1970 to 2000
_DATA = struct.Struct("!qqq")  # start of the message in the log, end of the log, send time
_KEEPALIVE = struct.Struct("!qq?")  # end of the log, send time, whether an answer is due
_REPORT = struct.Struct("!cqqqq?")
# Text formats of a value are the session's. These are the ones `to_jsonb` and Supabase have.
_SETTINGS = "-c timezone=UTC -c datestyle=ISO -c intervalstyle=postgres -c extra_float_digits=3"


@asynccontextmanager
async def open_stream(database_url: str, publications: Sequence[str]) -> AsyncGenerator[ChangeStream]:
    """Stream what is committed from now on; "now" has passed when this has been entered.

    Making a slot waits for the transactions that are writing at that moment.

    Raises:
        psycopg.Error: the database is away or refuses.
    """
    connection = await psycopg.AsyncConnection.connect(
        make_conninfo(
            database_url,
            replication="database",
            options=_SETTINGS,
            application_name="realtime",
            connect_timeout=CONNECT_SECONDS,
        ),
        autocommit=True,
    )
    try:
        slot = f"realtime_{secrets.token_hex(8)}"
        # The grammar of replication commands knows its keywords in capitals only.
        create = sql.SQL("CREATE_REPLICATION_SLOT {} TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT")
        await connection.execute(create.format(sql.Identifier(slot)))
        stream = ChangeStream(connection)
        await stream.start(slot, publications)
        yield stream
    finally:
        await connection.close()


class ChangeStream:
    """An open stream, for one reader."""

    def __init__(self, connection: psycopg.AsyncConnection[tuple[object, ...]]) -> None:
        self._pgconn = connection.pgconn
        self._decoder = Decoder()
        self._received = 0  # end of the log as far as we have it
        self._report_at = time.monotonic() + REPORT_SECONDS

    async def start(self, slot: str, publications: Sequence[str]) -> None:
        names = ",".join(f'"{name}"' for name in publications)
        command = f"START_REPLICATION SLOT \"{slot}\" LOGICAL 0/0 (proto_version '1', publication_names '{names}')"
        self._pgconn.send_query(command.encode())
        while self._pgconn.is_busy():
            await self._readable(CONNECT_SECONDS)
            self._pgconn.consume_input()
        result = self._pgconn.get_result()
        if result is None or result.status != pq.ExecStatus.COPY_BOTH:
            raise psycopg.OperationalError(f"replication did not start: {self._pgconn.get_error_message()}")

    async def read(self, *, timeout_seconds: float) -> list[Change]:
        """Wait for changes and return all that have arrived, in commit order; [] when the time is up.

        Raises:
            psycopg.OperationalError: the connection or the server is gone.
            PgoutputError: the server speaks another dialect.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            changes = self._received_changes()
            if time.monotonic() >= self._report_at:
                self._report()
            if changes or time.monotonic() >= deadline:
                return changes
            await self._readable(min(deadline, self._report_at) - time.monotonic())
            self._pgconn.consume_input()

    def _received_changes(self) -> list[Change]:
        changes: list[Change] = []
        taken = 0
        while not changes or (len(changes) < BATCH_CHANGES and taken < BATCH_BYTES):
            size, data = self._pgconn.get_copy_data(1)
            if size == 0:
                break
            if size < 0:
                raise psycopg.OperationalError(f"replication ended: {self._pgconn.get_error_message()}")
            taken += size
            change = self._message(bytes(data))
            if change is not None:
                changes.append(change)
        return changes

    def _message(self, message: bytes) -> Change | None:
        match message[:1]:
            case b"w":
                start, end, _sent_at = _DATA.unpack_from(message, 1)
                self._received = max(self._received, start, end)
                return self._decoder.feed(message[1 + _DATA.size :])
            case b"k":
                end, _sent_at, answer_due = _KEEPALIVE.unpack_from(message, 1)
                self._received = max(self._received, end)
                if answer_due:  # also sent by a server that shuts down and waits for us to have everything
                    self._report_at = 0.0
                return None
            case kind:
                raise PgoutputError(f"unknown replication message {kind!r}")

    def _report(self) -> None:
        """Tell the server how far we are, so that it can let go of the log behind."""
        now = int((time.time() - _POSTGRES_EPOCH) * 1_000_000)
        self._pgconn.put_copy_data(_REPORT.pack(b"r", self._received, self._received, self._received, now, False))
        # What of the 34 bytes does not fit a full socket stays queued in libpq and goes with the next report.
        self._pgconn.flush()
        self._report_at = time.monotonic() + REPORT_SECONDS

    async def _readable(self, timeout_seconds: float) -> None:
        """Wait until the server has sent something, or the time is up."""
        loop = asyncio.get_running_loop()
        arrived = loop.create_future()
        loop.add_reader(self._pgconn.socket, lambda: arrived.done() or arrived.set_result(None))
        try:
            await asyncio.wait([arrived], timeout=max(0.0, timeout_seconds))
        finally:
            loop.remove_reader(self._pgconn.socket)
