"""The server's life: as whoever runs the tests, through kills, crashes, taken ports and foreign directories."""

from __future__ import annotations

import os
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import psycopg
import pytest

from local.errors import StackError
from local.ports import refuse_unusable
from local.postgres import EPHEMERAL_SETTINGS, PostgresError, PostgresServer


def server_over(data_dir: Path, port: int = 0) -> PostgresServer:
    return PostgresServer(data_dir, port=port, settings=EPHEMERAL_SETTINGS)


def postmaster(data_dir: Path) -> psutil.Process:
    return psutil.Process(int((data_dir / "postgres" / "postmaster.pid").read_text().split("\n")[0]))


def wait_until_gone(process: psutil.Process) -> None:
    """A process that nobody collects stays listed as a zombie; it is gone all the same."""
    deadline = time.monotonic() + 10
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, f"{process} still runs"
        time.sleep(0.01)


def ask(server: PostgresServer, query: str) -> object:
    with psycopg.connect(server.url, autocommit=True) as connection:
        return connection.execute(query.encode()).fetchall()[0][0]


def test_a_new_directory_becomes_a_server_ready_for_realtime(data_dir):
    server = server_over(data_dir)
    server.start()
    assert ask(server, "show wal_level") == "logical"
    assert ask(server, "select rolsuper from pg_roles where rolname = current_user") is True
    server.stop()
    assert not server.is_running()


def test_data_survives_a_stop_and_a_crash(data_dir):
    server = PostgresServer(data_dir)
    server.start()
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("create table notes as select 1 as id")
    server.stop()
    server.start()
    server.restart(immediate=True)
    assert ask(server, "select id from notes") == 1


def test_a_restart_keeps_the_port(data_dir):
    server = server_over(data_dir)
    server.start()
    port = server.port
    server.restart()
    assert (server.port, ask(server, "select 1")) == (port, 1)


def test_a_killed_server_is_noticed_and_starts_again(data_dir):
    server = server_over(data_dir)
    server.start()
    killed = postmaster(data_dir)
    killed.kill()
    wait_until_gone(killed)
    assert not server.is_running()
    server.restart()
    assert ask(server, "select 1") == 1


def test_a_pid_file_that_names_a_strange_process_is_stale(data_dir):
    server = server_over(data_dir)
    server.start()
    server.stop()
    (data_dir / "postgres" / "postmaster.pid").write_text(f"{psutil.Process().pid}\n")
    server.start()
    assert ask(server, "select 1") == 1


def test_a_server_that_a_killed_stack_left_is_replaced(data_dir):
    left = server_over(data_dir)
    left.start()
    old = postmaster(data_dir)
    left._lock.release()  # as the system does for a killed process
    server = server_over(data_dir)
    server.start()
    wait_until_gone(old)
    assert ask(server, "select 1") == 1


def test_two_stacks_over_one_directory_are_refused(data_dir):
    first = server_over(data_dir)
    first.start()
    with pytest.raises(PostgresError, match="in use by another running stack"):
        server_over(data_dir).start()
    assert first.is_running()


def test_a_taken_port_is_named_with_who_has_it(data_dir):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = rf"^Port {port} for the database is taken by \S+ \(process {os.getpid()}\)\. Stop it, or .* --db-port"
        with pytest.raises(StackError, match=told):
            server_over(data_dir, port).start()
    server_over(data_dir, port).start()  # nothing of the failed start is in the way


def test_a_port_that_an_outgoing_connection_has_is_named_as_such(data_dir):
    with ExitStack() as sockets:
        server = sockets.enter_context(socket.create_server(("127.0.0.1", 0)))
        # Bound by itself, or another process may have a connection from the same port to somewhere else.
        ours = ("127.0.0.1", 0)
        outgoing = sockets.enter_context(socket.create_connection(server.getsockname(), source_address=ours))
        port = outgoing.getsockname()[1]
        told = (
            rf"^Port {port} for the database is taken by an outgoing connection of \S+ \(process {os.getpid()}\)\. Try"
        )
        with pytest.raises(StackError, match=told):
            server_over(data_dir, port).start()


def test_a_connection_that_has_ended_hides_nobody_who_has_its_port_now():
    told = rf"taken by an outgoing connection of \S+ \(process {os.getpid()}\)"
    for _ in range(20):  # which of the two is found first is chance
        with ExitStack() as sockets:
            first, second = [sockets.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
            ended, outgoing = sockets.enter_context(socket.socket()), sockets.enter_context(socket.socket())
            for one in (ended, outgoing):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            ended.bind(("127.0.0.1", 0))
            ended.connect(first.getsockname())
            port = ended.getsockname()[1]
            answered, _ = first.accept()
            ended.close()
            assert answered.recv(1) == b""
            answered.close()
            outgoing.bind(("127.0.0.1", port))
            outgoing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
            outgoing.connect(second.getsockname())
            with pytest.raises(StackError, match=told):
                refuse_unusable(port, purpose="the database", option="--db-port")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may use every port")
def test_a_port_that_only_root_may_use_is_not_called_taken(data_dir):
    with pytest.raises(StackError, match=r"^Port 1 for the database cannot be used: Permission denied\. "):
        server_over(data_dir, 1).start()


def test_a_directory_of_another_version_is_refused_untouched(data_dir):
    (data_dir / "postgres").mkdir(parents=True)
    (data_dir / "postgres" / "PG_VERSION").write_text("17\n")
    with pytest.raises(PostgresError, match="holds a PostgreSQL 17 cluster, and this stack runs PostgreSQL 18"):
        server_over(data_dir).start()
    assert [path.name for path in (data_dir / "postgres").iterdir()] == ["PG_VERSION"]


def test_a_directory_that_is_no_cluster_is_refused(data_dir):
    (data_dir / "postgres").mkdir(parents=True)
    (data_dir / "postgres" / "thesis.tex").touch()
    with pytest.raises(PostgresError, match="holds no PostgreSQL cluster"):
        server_over(data_dir).start()


def test_an_interrupted_initdb_is_done_over(data_dir):
    (data_dir / "postgres.new" / "base").mkdir(parents=True)
    server = server_over(data_dir)
    server.start()
    assert ask(server, "select 1") == 1


def test_a_server_that_will_not_start_says_why(data_dir):
    server = PostgresServer(data_dir, settings={"shared_buffers": "nonsense"})
    with pytest.raises(PostgresError, match=r"did not start: .*shared_buffers"):
        server.start()
