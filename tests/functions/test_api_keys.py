"""The life of an API key: made, shown once, used, rotated, ended, and never to be had from what is stored or logged."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from datetime import datetime, timedelta

import pytest

from shared.api_keys.key import hash_of, new_key
from shared.errors import Unauthenticated
from shared.redaction import redact_text
from tests.functions.programs import Direct, Owner, Program
from tests.functions.visitor import PROMPT, Visitor
from tests.support.clock import shift_clock
from tests.support.runs import connect

DAY = 86_400
NOT_VALID = "The API key is not valid: there is none like it, or it has expired, been rotated or been revoked"
CREATE = {"action": "create", "prompt": PROMPT}


async def refusal(program: Program) -> tuple[int, str]:
    answer = await program.exchange()
    return answer.status_code, answer.json().get("message", "")


async def later(database_url: str, seconds: float) -> None:
    async with connect(database_url) as connection:
        await shift_clock(connection, seconds=seconds)


async def test_a_key_is_shown_once_and_known_by_its_end(key_owner: Owner):
    program = await key_owner.make(["runs:read"], name=" CI ", expires_in_days=1)

    (listed,) = await key_owner.listed()
    assert re.fullmatch(r"rb_live_[0-9A-Za-z]{44}", program.key)
    assert (listed["name"], listed["scopes"], listed["last_four"]) == ("CI", ["runs:read"], program.key[-4:])
    made, expires = (datetime.fromisoformat(listed[name]) for name in ("created_at", "expires_at"))
    assert expires - made == timedelta(days=1)
    assert program.key not in str(await key_owner.listed())


async def test_the_database_holds_nothing_that_could_be_sent(key_owner: Owner, database_url: str):
    program = await key_owner.make()
    await program.token()
    sent = hash_of(program.key)
    kept = hashlib.sha256(bytes.fromhex(sent)).hexdigest()

    async with connect(database_url) as connection:
        tables = ["public.api_keys", "private.api_key_secrets", "private.api_key_refusals", "private.idempotency_keys"]
        dump = str([await (await connection.execute(f"select t::text from {name} t")).fetchall() for name in tables])

    assert kept in dump
    assert sent not in dump
    assert program.key[8:-6] not in dump


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "a\x00b"}, "name"),
        ({"name": "  "}, "name"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["runs:all"]}, "scopes"),
        ({"scopes": "runs:read"}, "scopes"),
        ({"expires_in_days": 0}, "expires_in_days"),
        ({"expires_in_days": 10**9}, "expires_in_days"),
        ({"expires_in_days": "5"}, "expires_in_days"),
        ({"user_id": "6f3f2c1e-7c3f-4a57-9b5f-0d5b7d5a9a01"}, "user_id"),
    ],
)
async def test_a_wrong_field_is_named_and_makes_no_key(key_owner: Owner, fields: dict[str, object], field: str):
    body = {"action": "create", "name": "CI", "scopes": ["runs:read"], **fields}

    answer = await key_owner.visitor.post("api-keys", body)

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_input")
    assert field in answer.json()["message"]
    assert await key_owner.listed() == []


@pytest.mark.parametrize("fields", [{"p_scopes": ["runs:read", "root"]}, {"p_hash": "abc"}, {"p_name": None}])
async def test_the_database_refuses_what_the_function_would_not_send(key_owner: Owner, fields: dict[str, object]):
    good = {"p_hash": "0" * 64, "p_last_four": "abcd", "p_name": "CI", "p_scopes": ["runs:read"]}

    answer = await Direct(key_owner.visitor).call("create_api_key", **{**good, **fields})

    assert (answer.status_code, answer.json()["code"]) == (400, "RUN07")


async def test_somebody_elses_key_does_not_exist(key_owner: Owner, stranger: Visitor):
    program = await key_owner.make()

    for action in ("rotate", "revoke"):
        answer = await stranger.post("api-keys", {"action": action, "api_key_id": program.id})
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert (await stranger.post("api-keys", {"action": "list"})).json() == {"api_keys": []}
    assert (await program.exchange()).status_code == 200


async def test_a_person_has_at_most_fifty_keys_that_work(key_owner: Owner):
    programs = [await key_owner.make() for _ in range(50)]

    more = await key_owner.visitor.post("api-keys", {"action": "create", "name": "51", "scopes": ["runs:read"]})
    await key_owner.act("revoke", programs[0])

    assert (more.status_code, more.json()["code"]) == (429, "limit_exceeded")
    assert (await (await key_owner.make()).exchange()).status_code == 200


async def test_after_a_rotation_both_keys_work_until_the_overlap_is_over(key_owner: Owner, database_url: str):
    old = await key_owner.make(expires_in_days=None)

    new = await key_owner.rotate(old)

    assert new.id == old.id
    assert [(await program.exchange()).status_code for program in (old, new)] == [200, 200]
    await later(database_url, DAY - 60)
    assert (await old.exchange()).json()["expires_in"] <= 60
    await later(database_url, 61)
    assert await refusal(old) == (401, NOT_VALID)
    assert (await new.exchange()).status_code == 200


async def test_at_most_two_keys_work_at_a_time(key_owner: Owner):
    first = await key_owner.make()
    second = await key_owner.rotate(first)

    third = await key_owner.rotate(second)

    assert [(await program.exchange()).status_code for program in (first, second, third)] == [401, 200, 200]


async def test_a_rotation_without_overlap_ends_the_old_key_and_its_tokens_at_once(key_owner: Owner):
    old = await key_owner.make()
    token = Direct(key_owner.visit(await old.token()))
    assert await token.rows("accounts") != []

    new = await key_owner.rotate(old, overlap_hours=0)

    assert await refusal(old) == (401, NOT_VALID)
    assert await token.rows("accounts") == []
    assert (await new.exchange()).status_code == 200


async def test_a_revoked_key_can_do_nothing_at_once_whatever_is_remembered_of_it(key_owner: Owner):
    program = await key_owner.make()
    run_id = (await program.visitor.create())["run_id"]
    token = Direct(key_owner.visit(await program.token()))

    revoked = await key_owner.act("revoke", program)

    assert revoked["api_key"]["revoked_at"] is not None
    assert await refusal(program) == (401, NOT_VALID)
    for response in (
        await program.visitor.post("agent-execute", CREATE),
        await program.visitor.act("start", run_id),
        await program.visitor.get("agent-logs", run_id=run_id),
    ):
        assert (response.status_code, response.json()["code"]) == (401, "unauthenticated")
    assert await token.rows("agent_runs") == []
    assert (await token.call("control_run", p_run_id=run_id, p_action="stop")).json()["code"] == "RUN19"


async def test_a_revoked_key_stays_so(key_owner: Owner):
    program = await key_owner.make()
    first = await key_owner.act("revoke", program)

    again = await key_owner.act("revoke", program)
    rotated = await key_owner.visitor.post("api-keys", {"action": "rotate", "api_key_id": program.id})

    assert again == first
    assert (rotated.status_code, rotated.json()["code"]) == (409, "invalid_transition")


async def test_an_expired_key_is_refused_and_so_are_its_tokens(key_owner: Owner, database_url: str):
    program = await key_owner.make(expires_in_days=1)
    token = Direct(key_owner.visit(await program.token()))

    await later(database_url, DAY + 1)

    assert await refusal(program) == (401, NOT_VALID)
    assert await token.rows("accounts") == []
    assert (await program.visitor.post("agent-status")).status_code == 401


async def test_a_banned_persons_key_is_refused_and_works_again_after_the_ban(key_owner: Owner, database_url: str):
    program = await key_owner.make()
    token = Direct(key_owner.visit(await program.token()))
    async with connect(database_url) as connection:
        ban = "update auth.users set banned_until = private.clock() + interval '1 hour' where id = %s"
        await connection.execute(ban, [key_owner.person.user_id])

    assert await refusal(program) == (401, NOT_VALID)
    assert await token.rows("accounts") == []
    await later(database_url, 3601)
    assert (await program.exchange()).status_code == 200


@pytest.mark.parametrize("change", ["deleted_at = now()", "role = 'service_role'"])
async def test_who_is_no_plain_user_any_more_has_no_keys(key_owner: Owner, database_url: str, change: str):
    program = await key_owner.make()
    token = Direct(key_owner.visit(await program.token()))

    async with connect(database_url) as connection:
        await connection.execute(f"update auth.users set {change} where id = %s", [key_owner.person.user_id])

    assert await refusal(program) == (401, NOT_VALID)
    assert await token.rows("accounts") == []


async def test_a_deleted_persons_key_is_gone(key_owner: Owner):
    program = await key_owner.make()
    token = Direct(key_owner.visit(await program.token()))
    administrator = await key_owner.stack.client(key_owner.stack.service_key)

    await administrator.auth.admin.delete_user(key_owner.person.user_id)

    assert await refusal(program) == (401, NOT_VALID)
    assert (await token.call("create_run", p_request={"engine": "agent", "input": {}})).json()["code"] == "RUN19"


async def test_last_used_is_written_once_a_minute(key_owner: Owner, database_url: str):
    program = await key_owner.make()
    assert (await key_owner.listed())[0]["last_used_at"] is None

    await program.token()
    first = (await key_owner.listed())[0]["last_used_at"]
    await program.token()
    await later(database_url, 30)
    await program.token()
    within = (await key_owner.listed())[0]["last_used_at"]
    await later(database_url, 31)
    await program.token()

    assert within == first
    assert (await key_owner.listed())[0]["last_used_at"] > first


async def test_exchanges_and_rotations_at_once_wait_for_each_other_and_none_fails(key_owner: Owner, database_url: str):
    """Both write the key's row and its secret's: in one order, or they would be each other's deadlock."""
    program = await key_owner.make()
    for _ in range(3):
        await later(database_url, 61)  # so that each exchange writes the key's row too
        answers = await asyncio.gather(*(program.exchange() for _ in range(8)), key_owner.rotate(program))
        assert {answer.status_code for answer in answers[:8]} == {200}
        program = answers[8]


async def test_a_forged_key_is_refused_as_a_revoked_one_is(key_owner: Owner):
    forged = Program(key_owner.stack, new_key(), "", key_owner.visit(new_key()))

    assert await refusal(forged) == (401, NOT_VALID)


async def test_who_tries_keys_is_told_to_wait_and_who_has_one_is_not(key_owner: Owner, database_url: str):
    program = await key_owner.make()
    forged = Program(key_owner.stack, new_key(), "", key_owner.visit(new_key()))
    async with connect(database_url) as connection:
        # As after 60 refusals in this moment.
        await connection.execute("update private.api_key_refusals set full_at = private.clock() + interval '60 s'")

    answer = await forged.exchange()

    assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (429, "limit_exceeded", "1")
    assert (await program.exchange()).status_code == 200
    await later(database_url, 2)
    assert await refusal(forged) == (401, NOT_VALID)


async def test_a_key_that_is_exchanged_too_often_is_told_to_wait(key_owner: Owner, database_url: str):
    program = await key_owner.make()
    async with connect(database_url) as connection:
        # As after 600 exchanges in this moment, and an hour set back since, which says nothing.
        spent = "update private.api_key_secrets set full_at = private.clock() + make_interval(secs => %s)"
        await connection.execute(spent, [60])
        refused = [await program.exchange(), await program.visitor.post("agent-status")]
        await connection.execute(spent, [3600])
        served = await program.exchange()

    assert [answer.status_code for answer in refused] == [429, 429]
    assert served.status_code == 200


async def test_a_typo_is_refused_by_the_key_alone():
    key = new_key()

    for place in range(8, len(key)):
        other = "a" if key[place] != "a" else "b"
        with pytest.raises(Unauthenticated, match="has a typo"):
            hash_of(key[:place] + other + key[place + 1 :])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda key: key[:-1], "malformed"),
        (lambda key: key + "0", "malformed"),
        (lambda key: key[:20] + "-" + key[21:], "malformed"),
        (lambda key: key.replace("live", "test"), "unknown prefix"),
        (lambda key: key[:-1] + ("0" if key[-1] != "0" else "1"), "typo"),
        (lambda key: "rb_live_", "malformed"),
        (lambda key: "rb_live_" + "\u0661" * 44, "malformed"),
    ],
)
async def test_a_spoilt_key_is_told_what_is_wrong_and_is_not_repeated(key_owner: Owner, spoil, message: str):
    key = spoil((await key_owner.make()).key)
    headers = {"Authorization": f"Bearer {key}".encode()}

    for slug in ("agent-status", "api-key-exchange"):
        answer = await key_owner.visitor.http.post(f"/functions/v1/{slug}", headers=headers)
        assert answer.status_code == 401
        assert message in answer.json()["message"]
        assert key[8:] == "" or key[8:] not in answer.text


@pytest.mark.parametrize("query", ["apikey={}", "key={}", "apikey=%72b_live_{}"])
@pytest.mark.parametrize(
    ("method", "slug"), [("POST", "agent-status"), ("GET", "agent-logs"), ("POST", "api-key-exchange")]
)
async def test_a_key_in_a_url_is_refused_also_beside_a_good_header(
    key_owner: Owner, method: str, slug: str, query: str
):
    program = await key_owner.make()
    text = query.format(program.key.removeprefix("rb_live_") if "%72" in query else program.key)

    visitor = program.visitor
    answer = await visitor.http.request(method, f"/functions/v1/{slug}?{text}", headers=visitor.headers)

    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    assert program.key not in answer.text


async def test_a_key_in_a_text_is_redacted():
    key = new_key()

    assert redact_text(f"called with {key} and failed") == "called with [redacted] and failed"


async def test_no_log_line_has_a_key_or_what_is_sent_for_it(key_owner: Owner, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.DEBUG):
        program = await key_owner.make()
        rotated = await key_owner.rotate(program)
        await program.visitor.post("agent-status")
        await rotated.visitor.post("agent-execute", {"action": "nonsense"})
        await key_owner.act("revoke", program)
        await program.exchange()

    assert caplog.text
    for key in (program.key, rotated.key):
        assert key[8:-6] not in caplog.text
        assert hash_of(key) not in caplog.text
