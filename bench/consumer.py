"""Consumes both publications until killed, in the way Supabase Realtime does, and throws the changes away.

Messages to broadcast are streamed from a slot; row changes for `postgres_changes` are polled from another every 100 ms.
"""

from __future__ import annotations

import select
import struct
import sys
import threading
import time

import psycopg
from psycopg.conninfo import make_conninfo

POLLED = "supabase_realtime"
STREAMED = "supabase_realtime_messages_publication"
POLL_SECONDS = 0.1
REPORT_SECONDS = 1.0
_POSTGRES_EPOCH = 946_684_800  # seconds from 1970 to 2000


def main(url: str) -> None:
    threading.Thread(target=_stream, args=[url], daemon=True).start()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("select pg_create_logical_replication_slot(%s, 'pgoutput', true)", [POLLED])
        while True:
            connection.execute(
                "select count(*) from pg_logical_slot_get_binary_changes("
                "%s::name, null, null, 'proto_version', '2', 'publication_names', %s::text)",
                [POLLED, POLLED],
            )
            time.sleep(POLL_SECONDS)


def _stream(url: str) -> None:
    """Logical replication as PostgreSQL's protocol has it: COPY both ways, 'w' data, 'k' keepalive, 'r' our report."""
    with psycopg.connect(make_conninfo(url, replication="database"), autocommit=True) as connection:
        connection.execute(f"CREATE_REPLICATION_SLOT {STREAMED} TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT")
        server = connection.pgconn
        options = f"proto_version '2', publication_names '{STREAMED}'"
        server.exec_(f"START_REPLICATION SLOT {STREAMED} LOGICAL 0/0 ({options})".encode())
        received, reported = 0, 0.0
        while True:
            select.select([server.socket], [], [], REPORT_SECONDS)
            server.consume_input()
            while (message := server.get_copy_data(1))[0] > 0:
                received = max(received, *struct.unpack_from("!qq" if message[1][:1] == b"w" else "!q", message[1], 1))
            if message[0] < 0:
                raise psycopg.OperationalError("replication ended")
            if time.monotonic() - reported >= REPORT_SECONDS:
                now = int((time.time() - _POSTGRES_EPOCH) * 1_000_000)
                server.put_copy_data(struct.pack("!cqqqq?", b"r", received, received, received, now, False))
                server.flush()
                reported = time.monotonic()


if __name__ == "__main__":
    main(sys.argv[1])
