"""What the platform promises: closed defaults, the caller's identity, sending from the database."""

from __future__ import annotations

import json

import psycopg
import pytest

from local.platform import apply_platform


@pytest.fixture
def connection(database_url: str):
    with psycopg.connect(database_url, autocommit=True) as opened:
        yield opened


def claims(connection: psycopg.Connection, role: str, **more: object) -> None:
    connection.execute("select set_config('role', %s, true)", [role])
    connection.execute("select set_config('request.jwt.claims', %s, true)", [json.dumps({"role": role, **more})])


async def test_applying_it_again_changes_nothing(database_url, connection):
    state = """
        select oid, relname, relacl::text from pg_class
        where relnamespace::regnamespace::text in ('auth', 'realtime') order by oid
    """
    before = connection.execute(state).fetchall()
    await apply_platform(database_url)
    assert connection.execute(state).fetchall() == before


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
def test_new_tables_are_closed_to_the_api_until_granted(connection, role):
    connection.execute("create table public.secrets (id int)")
    with connection.transaction():
        claims(connection, role)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("select from public.secrets")


async def test_the_platforms_schemas_are_such_as_the_clis_reset_leaves_alone(database_url, connection):
    owners = """
        select nspname, nspowner::regrole::text from pg_namespace where nspname in ('auth', 'realtime', 'storage')
        order by 1
    """
    kept = [(name, "supabase_admin") for name in ("auth", "realtime", "storage")]
    assert connection.execute(owners).fetchall() == kept
    connection.execute("alter schema auth owner to supabase_auth_admin")  # as in a data directory of an older stack
    await apply_platform(database_url)
    assert connection.execute(owners).fetchall() == kept


def test_policies_see_who_calls(connection):
    user = "7f0c6f0a-6c1d-4f5c-9d63-0d6f5f9f1c11"
    with connection.transaction():
        claims(connection, "authenticated", sub=user, email="a@example.com")
        asked = "select auth.uid()::text, auth.role(), auth.email(), auth.jwt() ->> 'sub'"
        assert connection.execute(asked).fetchone() == (user, "authenticated", "a@example.com", user)


def test_nobody_is_nobody(connection):
    assert connection.execute("select auth.uid(), auth.role(), auth.jwt()").fetchone() == (None, None, None)


def test_authenticator_can_do_nothing_before_it_takes_a_role(database_url):
    url = database_url.replace("postgres:postgres@", "authenticator:postgres@")
    with psycopg.connect(url) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("select from auth.users")


def test_a_sent_message_waits_for_the_commit_and_carries_its_id(connection):
    with connection.transaction():
        connection.execute("""select realtime.send('{"line": 1}', 'log', 'run:1')""")
    sent = connection.execute("select id, topic, event, private, extension, payload from realtime.messages").fetchall()
    assert sent == [(sent[0][0], "run:1", "log", True, "broadcast", {"line": 1, "id": str(sent[0][0])})]


def test_a_message_that_may_not_be_sent_is_a_warning_and_not_an_error(connection):
    warnings: list[str | None] = []
    connection.add_notice_handler(lambda notice: warnings.append(notice.message_primary))
    with connection.transaction():
        claims(connection, "authenticated")
        connection.execute("select realtime.send('{}', 'log', 'somebody-elses')")
    assert connection.execute("select count(*) from realtime.messages").fetchone() == (0,)
    assert [warning for warning in warnings if warning and "ErrorSendingBroadcastMessage" in warning]


def test_row_changes_are_broadcast_with_both_records(connection):
    connection.execute("create table public.notes (id int)")
    connection.execute("""
        create function public.tell() returns trigger language plpgsql as $$
        begin
          perform realtime.broadcast_changes('notes', tg_op, tg_op, tg_table_name, tg_table_schema, new, old);
          return null;
        end $$;
        create trigger tell after insert or update on public.notes for each row execute function public.tell();
    """)
    connection.execute("insert into public.notes values (1)")
    connection.execute("update public.notes set id = 2")
    payloads = connection.execute("select payload from realtime.messages order by inserted_at").fetchall()
    assert [(sent["operation"], sent["record"], sent["old_record"]) for (sent,) in payloads] == [
        ("INSERT", {"id": 1}, None),
        ("UPDATE", {"id": 2}, {"id": 1}),
    ]


def test_every_schema_change_is_announced_to_postgrest(database_url, connection):
    with psycopg.connect(database_url, autocommit=True) as listener:
        listener.execute("listen pgrst")
        connection.execute("create table public.notes (id int)")
        connection.execute("drop table public.notes")
        heard = [notice.payload for notice in listener.notifies(timeout=5, stop_after=2)]
    assert heard == ["reload schema", "reload schema"]
