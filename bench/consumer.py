"""Reads both publications through logical slots until killed, as Realtime does, and throws the changes away."""

from __future__ import annotations

import sys
import time

import psycopg

PUBLICATIONS = ("supabase_realtime", "supabase_realtime_messages_publication")
POLL_SECONDS = 0.05


def main(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for publication in PUBLICATIONS:
            connection.execute("select pg_create_logical_replication_slot(%s, 'pgoutput', true)", [publication])
        while True:
            for publication in PUBLICATIONS:
                connection.execute(
                    "select count(*) from pg_logical_slot_get_binary_changes("
                    "%s::name, null, null, 'proto_version', '2', 'publication_names', %s::text)",
                    [publication, publication],
                )
            time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    main(sys.argv[1])
