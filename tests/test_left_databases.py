"""A database that a test has left goes when the next is made, whatever came to it meanwhile."""

from __future__ import annotations

from collections.abc import Callable

import psycopg

from tests.support.database import TestServer


def test_a_left_database_goes_though_a_reader_of_changes_came_again(
    database_server: TestServer, template_database: str, clone_database: Callable[[], str]
) -> None:
    left = database_server.clone(template_database)
    database_server.leave(left)
    with psycopg.connect(left, autocommit=True) as reader:
        reader.execute("select pg_create_logical_replication_slot('came_again', 'pgoutput', temporary => true)")

        with psycopg.connect(clone_database()) as connection:
            name = psycopg.conninfo.conninfo_to_dict(left)["dbname"]
            found = connection.execute("select from pg_database where datname = %s", [name]).fetchall()

    assert found == []
