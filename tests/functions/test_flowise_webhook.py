"""flowise-webhook over HTTP: what a sender signs reaches the step that waits, and nothing else does."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode
from uuid import UUID, uuid4

import httpx
import pytest

from functions.flowise_webhook.app import handler
from shared.runs.engine import Event
from shared.runs.status import RunStatus, StepStatus
from shared.runs.transitions import FinishStep
from shared.webhooks.keys import VARIABLE, Address, WebhookKeys
from shared.webhooks.signature import sign, sign_as_flowise
from tests.functions.visitor import HandWorker, Visitor
from tests.support.runs import run_row, step_rows
from tests.support.stack import Stack

AGENT = UUID("0b0c6a4e-8a3f-4f1e-9b7d-5d2f8a1c3e01")
OTHER_AGENT = UUID("0b0c6a4e-8a3f-4f1e-9b7d-5d2f8a1c3e02")
PAYLOAD: dict[str, object] = {"event_id": "evt-1", "text": "Grüße"}
FUNCTIONS_URL = "/functions/v1"
FLOWISE_URL = f"{FUNCTIONS_URL}/flowise-webhook?agent_id={AGENT}"


@dataclass
class Sender:
    """Who calls back: it knows the URL it was given and its agent's secret."""

    http: httpx.AsyncClient
    keys: WebhookKeys
    address: Address

    @property
    def url(self) -> str:
        return self.keys.callback_url(FUNCTIONS_URL, self.address)

    async def send(
        self,
        payload: object = PAYLOAD,
        *,
        body: bytes | None = None,
        at: float | None = None,
        secret: str | None = None,
        url: str | None = None,
        header: str | list[str] | None = None,
    ) -> httpx.Response:
        body = json.dumps(payload, ensure_ascii=False).encode() if body is None else body
        secret = self.keys.secret(AGENT) if secret is None else secret
        signed = sign(body, secret, at=int(time.time() if at is None else at)) if header is None else header
        headers = [("x-runbase-signature", one) for one in ([signed] if isinstance(signed, str) else signed)]
        return await self.http.post(url or self.url, content=body, headers=headers)

    async def send_as_flowise(self, payload: object, *, secret: str | None = None, **headers: str) -> httpx.Response:
        body = json.dumps(payload).encode()
        signed = sign_as_flowise(body, secret or self.keys.secret(AGENT))
        return await self.http.post(FLOWISE_URL, content=body, headers={"x-flowise-signature": signed, **headers})


@pytest.fixture
async def nobody(stack: Stack) -> AsyncGenerator[httpx.AsyncClient]:
    """Somebody without any key or token."""
    async with httpx.AsyncClient(base_url=stack.url, timeout=30) as client:
        yield client


@pytest.fixture
def sender(
    stack: Stack, nobody: httpx.AsyncClient, held_run: Callable[[], Awaitable[tuple[str, HandWorker]]]
) -> Callable[[], Awaitable[Sender]]:
    """Make a run of the owner's whose step 1 waits, and who calls it back."""

    async def make() -> Sender:
        run_id, worker = await held_run()
        await worker.start(1)
        keys = WebhookKeys.from_env(os.environ)
        address = Address(AGENT, UUID(run_id), 1)
        event = Event(keys.token_hash(address))
        wait = FinishStep(1, 1, StepStatus.RUNNING, waits_for="event", available_in=600.0, event=event)
        await worker.advance(finish=(wait,), status=RunStatus.QUEUED, available_in=600.0)
        return Sender(nobody, keys, address)

    return make


async def untouched(stack: Stack, sender: Sender) -> bool:
    (step,) = await step_rows(stack.database_url, sender.address.run_id)
    return step["waits_for"] == "event"


def refusal(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


async def test_a_signed_callback_ends_the_wait_without_any_key(sender, stack: Stack, owner: Visitor) -> None:
    caller = await sender()

    response = await caller.send()

    assert response.status_code == 200, response.text
    assert response.json() == {
        "run_id": str(caller.address.run_id), "status": "queued", "step_no": 1, "revision": response.json()["revision"],
    }  # fmt: skip
    (step,) = await step_rows(stack.database_url, caller.address.run_id)
    assert (step["status"], step["output"]) == ("completed", PAYLOAD)
    assert (await owner.run(str(caller.address.run_id)))["revision"] == response.json()["revision"]


async def test_the_same_event_signed_anew_gets_the_same_answer(sender) -> None:
    caller = await sender()

    first = await caller.send()
    again = await caller.send(at=time.time() - 10)

    assert (again.status_code, again.json()) == (200, first.json())


async def test_the_same_bytes_again_are_refused(sender, stack: Stack) -> None:
    """Webhook_replayed: nor does another v1 beside it make it another delivery."""
    caller = await sender()
    header = sign(b"{}", caller.keys.secret(AGENT), at=int(time.time()))
    await caller.send(body=b"{}", header=header)
    before = await run_row(stack.database_url, caller.address.run_id)

    for replayed in (header, f"{header},v1={'0' * 64}", f"v0=x,{header}"):
        assert refusal(await caller.send(body=b"{}", header=replayed)) == (409, "conflict")
    assert await run_row(stack.database_url, caller.address.run_id) == before


async def test_another_event_is_refused(sender) -> None:
    caller = await sender()
    await caller.send({"a": 1})

    assert refusal(await caller.send({"a": 2})) == (409, "conflict")
    assert refusal(await caller.send({"event_id": "other", "a": 1})) == (409, "conflict")


@pytest.mark.parametrize("seconds", [-301, -86_400, 320, 10**8])
async def test_a_stale_signature_is_refused(sender, stack: Stack, seconds: int) -> None:
    caller = await sender()

    assert refusal(await caller.send(at=time.time() + seconds)) == (401, "unauthenticated")
    assert await untouched(stack, caller)


async def test_a_forged_signature_is_refused(sender, stack: Stack) -> None:
    caller = await sender()
    now = int(time.time())
    good = sign(b'{"a": 1}', caller.keys.secret(AGENT), at=now)

    for header in ("", "x", f"t={now},v1={'0' * 64}", good.replace("v1=", "v0="), good.replace(str(now), str(now + 1))):
        assert refusal(await caller.send(body=b'{"a": 1}', header=header)) == (401, "unauthenticated")
    assert refusal(await caller.send(body=b'{"a": 2}', header=good)) == (401, "unauthenticated")
    assert refusal(await caller.send(body=b'{"a":1}', header=good)) == (401, "unauthenticated")
    assert refusal(await caller.send(secret="")) == (401, "unauthenticated")
    assert refusal(await caller.send(secret=caller.keys.token(caller.address))) == (401, "unauthenticated")
    assert refusal(await caller.send(header=[])) == (401, "unauthenticated")
    assert await untouched(stack, caller)


async def test_a_forged_body_is_not_even_read(sender) -> None:
    caller = await sender()

    for body in (b"", b"no json", b"[" * 100_000, b"\xff\xfe"):
        assert refusal(await caller.send(body=body, secret="wrong")) == (401, "unauthenticated")


async def test_signature_headers_that_come_twice_are_refused(sender, stack: Stack) -> None:
    caller = await sender()
    good = sign(b"{}", caller.keys.secret(AGENT), at=int(time.time()))

    for headers in ([good, good], [good, f"t=1,v1={'0' * 64}"], [f"t=1,v1={'0' * 64}", good]):
        assert refusal(await caller.send(body=b"{}", header=headers)) == (401, "unauthenticated")
    assert await untouched(stack, caller)


async def test_the_signature_of_another_tenant_is_refused(sender, stack: Stack) -> None:
    """His secret is good for his agent's steps: not under this agent's name, and not under his own."""
    caller = await sender()
    theirs = caller.keys.secret(OTHER_AGENT)
    query = dict(parse_qsl(caller.url.partition("?")[2]))
    their_url = f"{FUNCTIONS_URL}/flowise-webhook?{urlencode({**query, 'agent_id': str(OTHER_AGENT)})}"
    sealed = caller.keys.callback_url(FUNCTIONS_URL, Address(OTHER_AGENT, caller.address.run_id, 1))

    assert refusal(await caller.send(secret=theirs)) == (401, "unauthenticated")
    assert refusal(await caller.send(secret=theirs, url=their_url)) == (401, "unauthenticated")
    assert refusal(await caller.send(secret=theirs, url=sealed)) == (404, "not_found")  # had we ever sealed it
    assert await untouched(stack, caller)


async def test_a_delivery_cannot_be_sent_to_another_step(sender, stack: Stack) -> None:
    """A captured one is good where it was going: the address of another run of the same agent is sealed apart."""
    caller, other = await sender(), await sender()
    query = dict(parse_qsl(caller.url.partition("?")[2]))
    for change in ({"run_id": str(other.address.run_id)}, {"step_no": "2"}, {"seal": "0" * 32}):
        url = f"{FUNCTIONS_URL}/flowise-webhook?{urlencode({**query, **change})}"
        assert refusal(await caller.send(url=url)) == (401, "unauthenticated")
    assert await untouched(stack, other)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("{}".encode("utf-16"), id="utf-16"),
        pytest.param("{}".encode("utf-32-le"), id="utf-32"),
        pytest.param(b"\xef\xbb\xbf{}", id="byte order mark"),
        pytest.param('{"a": "ä"}'.encode("latin-1"), id="latin-1"),
        pytest.param(b"\x1f\x8b\x08\x00", id="gzip"),
        pytest.param(b"a=1&b=2", id="form"),
        pytest.param(b'{"a": NaN}', id="nan"),
        pytest.param(b'{"a": "\\u0000"}', id="nul"),
        pytest.param(b'{"a": "\\ud800"}', id="lone surrogate"),
        pytest.param(b"[]", id="list"),
        pytest.param(b"null", id="null"),
        pytest.param(b'{"a":' * 40 + b"1" + b"}" * 40, id="deep"),
        pytest.param(b'{"a":' * 5000 + b"1" + b"}" * 5000, id="very deep"),
        pytest.param(b'{"event_id": 5}', id="event_id is no text"),
        pytest.param(b'{"event_id": ""}', id="event_id is empty"),
        pytest.param(json.dumps({"event_id": "x" * 201}).encode(), id="event_id is long"),
    ],
)
async def test_a_body_of_another_kind_is_refused_however_well_signed(sender, stack: Stack, body: bytes) -> None:
    caller = await sender()

    assert refusal(await caller.send(body=body)) == (400, "invalid_input")
    assert await untouched(stack, caller)


async def test_a_body_of_11_megabytes_is_refused_unread(sender, stack: Stack) -> None:
    caller = await sender()

    assert refusal(await caller.send(body=b'{"a": "' + b"x" * 11_000_000 + b'"}')) == (413, "payload_too_large")
    assert await untouched(stack, caller)


async def test_a_body_of_a_megabyte_is_taken(sender) -> None:
    caller = await sender()

    assert (await caller.send({"text": "x" * 1_000_000})).status_code == 200


@pytest.mark.parametrize(
    "query",
    [
        "",
        "run_id={run_id}&step_no=1&seal=x",
        "agent_id={agent_id}&run_id={run_id}&seal=x",
        "agent_id={agent_id}&run_id={run_id}&step_no=1",
        "agent_id={agent_id}&run_id={run_id}&step_no=1&seal=x&account_id=y",
        "agent_id={agent_id}&run_id={run_id}&step_no=0&seal=x",
        "agent_id={agent_id}&run_id={run_id}&step_no=4294967296&seal=x",
        "agent_id={agent_id}&run_id={run_id}&step_no=1&step_no=2&seal=x",
        "agent_id={agent_id}&run_id={run_id}&run_id={run_id}&step_no=1&seal=x",
        "agent_id=x&run_id={run_id}&step_no=1&seal=x",
        "agent_id={agent_id}&run_id=x&step_no=1&seal=x",
    ],
)
async def test_a_url_that_we_never_gave_away_is_refused(sender, query: str) -> None:
    caller = await sender()
    url = f"{FUNCTIONS_URL}/flowise-webhook?{query.format(agent_id=AGENT, run_id=caller.address.run_id)}"

    assert refusal(await caller.send(url=url)) == (400, "invalid_input")


async def test_the_body_cannot_say_where_it_goes(sender, stack: Stack) -> None:
    caller, other = await sender(), await sender()
    await caller.send({"run_id": str(other.address.run_id), "step_no": 1, "agent_id": str(OTHER_AGENT)})

    assert await untouched(stack, other)
    assert not await untouched(stack, caller)


async def test_a_session_or_a_service_key_is_no_signature(sender, stack: Stack, owner: Visitor) -> None:
    caller = await sender()
    for headers in (owner.headers, {"apikey": stack.service_key, "Authorization": f"Bearer {stack.service_key}"}):
        response = await caller.http.post(caller.url, content=b"{}", headers=dict(headers))
        assert refusal(response) == (401, "unauthenticated")


async def test_an_ended_run_is_told_so(sender, owner: Visitor) -> None:
    caller = await sender()
    await owner.act("stop", str(caller.address.run_id))

    assert refusal(await caller.send()) == (409, "run_finished")


async def test_a_run_that_does_not_exist_is_not_found(sender) -> None:
    caller = await sender()
    url = caller.keys.callback_url(FUNCTIONS_URL, Address(AGENT, uuid4(), 1))

    assert refusal(await caller.send(url=url)) == (404, "not_found")


async def test_a_callback_before_its_wait_is_kept(
    stack: Stack, nobody: httpx.AsyncClient, held_run: Callable[[], Awaitable[tuple[str, HandWorker]]]
) -> None:
    run_id, worker = await held_run()
    await worker.start(1)
    keys = WebhookKeys.from_env(os.environ)
    caller = Sender(nobody, keys, Address(AGENT, UUID(run_id), 1))

    response = await caller.send()
    wait = FinishStep(
        1, 1, StepStatus.RUNNING, waits_for="event", available_in=600.0, event=Event(keys.token_hash(caller.address))
    )
    await worker.advance(finish=(wait,), status=RunStatus.QUEUED, available_in=600.0)

    assert (response.status_code, response.json()["kept"]) == (200, True)
    assert (await step_rows(stack.database_url, caller.address.run_id))[0]["output"] == PAYLOAD
    assert (await caller.send(at=time.time() - 5)).json() == response.json()


@pytest.mark.parametrize("value", ["", "no base64!", "c2hvcnQ="])
async def test_without_a_key_nothing_is_taken(
    sender, stack: Stack, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """Webhook_no_secret: it fails closed, and says nothing of what it has."""
    caller = await sender()
    monkeypatch.setenv(VARIABLE, value)

    for response in (await caller.send(), await caller.send(secret=""), await caller.send(header=[])):
        assert refusal(response) == (500, "internal")
    assert await untouched(stack, caller)


async def test_what_flowise_sends_is_taken_as_it_is(sender, stack: Stack) -> None:
    """Its three tries carry the same bytes and the same signature."""
    caller = await sender()
    payload = {
        "status": "SUCCESS",
        "chatId": caller.keys.chat_id(caller.address),
        "data": {"text": "Hello", "agentFlowExecutedData": []},
    }

    answers = [await caller.send_as_flowise(payload) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200] * 3
    assert len({answer.text for answer in answers}) == 1
    (step,) = await step_rows(stack.database_url, caller.address.run_id)
    assert step["output"]["data"]["text"] == "Hello"
    assert refusal(await caller.send_as_flowise({**payload, "status": "ERROR"})) == (409, "conflict")


async def test_a_key_that_the_sender_echoes_is_not_stored(sender, stack: Stack) -> None:
    caller = await sender()
    key = "sk-proj-" + "A1b2C3d4" * 6
    await caller.send({"text": f"called with {key}", "data": [{"openAIApiKey": "plain-but-named", "nodeId": "llm_0"}]})

    (step,) = await step_rows(stack.database_url, caller.address.run_id)
    assert step["output"]["text"].startswith("called with [redacted]")
    assert step["output"]["data"] == [{"openAIApiKey": "[redacted]", "nodeId": "llm_0"}]


async def test_what_flowise_never_sent_is_refused(sender, stack: Stack) -> None:
    caller, other = await sender(), await sender()
    chat_id = caller.keys.chat_id(caller.address)
    run_id, step_no, seal = chat_id.split(".")

    for forged, code in (
        (None, 400),
        (5, 400),
        ("", 400),
        (str(uuid4()), 400),
        (f"{chat_id}.x", 400),
        (f"{run_id}.{step_no}", 400),
        (f"{run_id}.-1.{seal}", 400),
        (f"{run_id}.2.{seal}", 401),
        (f"{other.address.run_id}.1.{seal}", 401),
        (f"{run_id}.1.", 401),
    ):
        response = await caller.send_as_flowise({"status": "SUCCESS", "chatId": forged})
        assert response.status_code == code, (forged, response.text)
    wrong = await caller.send_as_flowise({"chatId": chat_id}, secret="wrong")
    both = await caller.send_as_flowise({"chatId": chat_id}, **{"X-Runbase-Signature": "t=1,v1=x"})
    assert [refusal(wrong), refusal(both)] == [(401, "unauthenticated")] * 2
    assert await untouched(stack, caller)
    assert await untouched(stack, other)


async def test_only_post_is_served(sender) -> None:
    caller = await sender()
    for method in ("GET", "PUT", "DELETE"):
        assert refusal(await caller.http.request(method, caller.url)) == (405, "method_not_allowed")


async def test_on_lambda_the_body_is_verified_as_it_came(sender, stack: Stack) -> None:
    """API Gateway puts binary bodies in base64 and joins headers of one name by a comma."""
    caller = await sender()
    path, _, query = caller.url.partition("?")
    body = json.dumps(PAYLOAD, ensure_ascii=False)
    header = sign(body.encode(), caller.keys.secret(AGENT), at=int(time.time()))

    def event(signature: str) -> dict[str, Any]:
        return {
            "version": "2.0", "rawPath": path, "rawQueryString": query, "body": body, "isBase64Encoded": False,
            "headers": {"content-type": "application/json", "x-runbase-signature": signature},
            "requestContext": {"http": {"method": "POST", "path": path, "sourceIp": "127.0.0.1"}, "stage": "$default"},
        }  # fmt: skip

    answers = [await asyncio.to_thread(handler, event(one), None) for one in (f"{header},{header}", header)]

    assert [answer["statusCode"] for answer in answers] == [401, 200]
    assert not await untouched(stack, caller)
