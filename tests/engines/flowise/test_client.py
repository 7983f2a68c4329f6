"""The client against a server of the recorded shapes: predictions, streams, what breaks, and what is repeated."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from uuid import uuid4

import pytest

from local.stand_ins.flowise import STORED_KEY, FlowiseServer, Turn
from shared.engines.flowise import client as client_module
from shared.engines.flowise.answer import Answer, from_body
from shared.engines.flowise.client import FlowiseClient
from shared.engines.flowise.failures import (
    AnswerLost,
    FlowFailed,
    FlowiseKeyRefused,
    FlowKeyRefused,
    FlowUnknown,
    ModelKeyRefused,
    NotFlowise,
)
from shared.engines.flowise.shapes import Prediction
from shared.errors import AddressBlocked, UpstreamBusy, UpstreamTimeout
from tests.engines.flowise.conftest import QUICK

ClientOf = Callable[..., FlowiseClient]
FLOW_KEY = "the-key-of-the-flow-012345"


def prediction(**changes: object) -> Prediction:
    asked = Prediction(chat_id=str(uuid4()), session_id="a session", question="Hi")
    return replace(asked, **changes)  # type: ignore[arg-type]


async def streamed(client: FlowiseClient, flow_id: str, asked: Prediction | None = None) -> tuple[list[str], Answer]:
    names: list[str] = []
    answer = Answer()
    async with aclosing(client.stream(flow_id, asked or prediction())) as events:
        async for event in events:
            names.append(event.name)
            if event.name == "prediction":
                answer = from_body(event.data)  # type: ignore[arg-type]
            answer.add(event)
    return names, answer


async def test_a_chatflow_answers_as_json(flowise: FlowiseServer, client_of: ClientOf) -> None:
    flow = flowise.chatflow(Turn("Hello", tools=({"tool": "calculator", "toolInput": {}, "toolOutput": "4"},)))

    answer = await client_of(flowise.url).predict(flow.id, prediction())

    assert answer.text == "Hello"
    assert answer.session_id == "a session"
    assert answer.lists["usedTools"][0]["tool"] == "calculator"  # type: ignore[index,call-overload]


async def test_a_chatflow_streams_its_words(flowise: FlowiseServer, client_of: ClientOf) -> None:
    flow = flowise.chatflow(Turn("one two\u2028three", documents=({"pageContent": "A page"},)))

    names, answer = await streamed(client_of(flowise.url), flow.id)

    assert names == ["start", "token", "token", "sourceDocuments", "metadata"]
    assert answer.text == "one two\u2028three"
    assert answer.to_output()["sourceDocuments"] == [{"pageContent": "A page"}]


async def test_an_agentflow_streams_its_nodes_and_what_it_used(flowise: FlowiseServer, client_of: ClientOf) -> None:
    flow = flowise.agentflow()

    _, answer = await streamed(client_of(flowise.url), flow.id)

    output = answer.to_output()
    assert output["usage"] == {"input_tokens": 12, "output_tokens": 5, "total_tokens": 17}
    assert [(node["label"], node["status"]) for node in output["nodes"]] == [  # type: ignore[index,union-attr,call-overload]
        ("Start", "FINISHED"),
        ("LLM", "FINISHED"),
    ]


async def test_what_nodes_were_given_is_not_in_the_answer(flowise: FlowiseServer, client_of: ClientOf) -> None:
    flow = flowise.agentflow(Turn(), Turn(), enabled={"LLM": ("openAIApiKey",)})
    asked = prediction(overrides={"openAIApiKey": "sk-canary-0123456789"})
    client = client_of(flowise.url)

    whole = await client.predict(flow.id, asked)
    _, pieces = await streamed(client, flow.id, replace(asked, chat_id=str(uuid4())))

    assert flowise.calls[0].key == "sk-canary-0123456789"
    assert "canary" not in f"{whole.to_output()} {pieces.to_output()}"


async def test_a_flow_that_cannot_stream_answers_in_one_piece(flowise: FlowiseServer, client_of: ClientOf) -> None:
    flow = flowise.chatflow(streamable=False)
    client = client_of(flowise.url)

    names, answer = await streamed(client, flow.id)

    assert (names, answer.text) == (["prediction"], "Hello from the flow")
    assert await client.is_streaming(flow.id) is False


async def test_a_session_is_sent_although_overrides_are_denied(flowise: FlowiseServer, client_of: ClientOf) -> None:
    flow = flowise.chatflow()

    answer = await client_of(flowise.url).predict(flow.id, prediction(overrides={"openAIApiKey": "sk-not-taken"}))

    assert answer.session_id == "a session"
    assert flowise.calls[0].key == STORED_KEY


async def test_uploads_forms_and_answers_of_people_are_sent_by_their_names(
    flowise: FlowiseServer, client_of: ClientOf
) -> None:
    flow = flowise.agentflow()
    file = {"type": "file", "name": "a.txt", "data": "data:text/plain;base64,aGk=", "mime": "text/plain"}

    await client_of(flowise.url).predict(flow.id, prediction(question=None, form={"city": "Bern"}, uploads=(file,)))

    body = flowise.predictions[0].body
    assert (body["form"], body["uploads"], "question" in body) == ({"city": "Bern"}, [file], False)


@pytest.mark.parametrize("streaming", [False, True])
async def test_failures_are_the_same_in_a_stream_and_outside(
    flowise: FlowiseServer, client_of: ClientOf, *, streaming: bool
) -> None:
    client = client_of(flowise.url, key=FLOW_KEY)
    keyed = flowise.chatflow(api_key="another-key-of-a-flow-0123")
    picky = flowise.chatflow(good_keys=frozenset({"sk-good"}))
    broken = flowise.agentflow(Turn(fails="flowStateArray is not iterable"))

    async def ask(flow_id: str) -> object:
        return await (streamed(client, flow_id) if streaming else client.predict(flow_id, prediction()))

    for flow_id, kind in [
        (keyed.id, FlowKeyRefused),
        (picky.id, ModelKeyRefused),
        (broken.id, FlowFailed),
        (str(uuid4()), FlowUnknown),
        ("no-uuid", FlowUnknown),
    ]:
        with pytest.raises(kind):
            await ask(flow_id)
    assert len(flowise.predictions) == 5


async def test_the_flows_own_key_lets_in(flowise: FlowiseServer, client_of: ClientOf) -> None:
    flow = flowise.chatflow(api_key=FLOW_KEY)

    answer = await client_of(flowise.url, key=FLOW_KEY).predict(flow.id, prediction())

    assert answer.text == "Hello from the flow"
    assert flowise.predictions[0].headers["authorization"] == f"Bearer {FLOW_KEY}"


async def test_a_page_instead_of_an_api_is_told(flowise: FlowiseServer, client_of: ClientOf) -> None:
    flow = flowise.chatflow(Turn(raw=b"<html>", headers={"content-type": "text/html"}))

    with pytest.raises(NotFlowise):
        await streamed(client_of(flowise.url), flow.id)
    with pytest.raises(NotFlowise):
        await client_of(f"{flowise.url}/elsewhere").list_flows()


@pytest.mark.parametrize("body", [b"{", b"[]", b'"text"', b""])
async def test_json_of_another_shape_is_told(flowise: FlowiseServer, client_of: ClientOf, body: bytes) -> None:
    flow = flowise.chatflow(Turn(raw=body, headers={"content-type": "application/json"}))

    with pytest.raises(NotFlowise):
        await client_of(flowise.url).predict(flow.id, prediction())


async def test_a_body_without_end_is_not_read_to_the_end(
    flowise: FlowiseServer, client_of: ClientOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "BODY_BYTES", 1_000)
    flow = flowise.chatflow(Turn("x" * 2_000))

    with pytest.raises(NotFlowise, match="more than"):
        await client_of(flowise.url).predict(flow.id, prediction())


async def test_a_limited_flow_is_asked_three_times_and_says_when(flowise: FlowiseServer, client_of: ClientOf) -> None:
    limited = Turn(status=429, fails="Slow down", headers={"retry-after": "7"})
    flow = flowise.chatflow(limited, limited, limited)
    waited: list[float] = []

    async def wait(seconds: float) -> None:
        waited.append(seconds)

    with pytest.raises(UpstreamBusy) as raised:
        await streamed(client_of(flowise.url, limits=replace(QUICK, sleep=wait)), flow.id)

    assert raised.value.retry_after_seconds == 7
    assert waited == [7, 7]
    assert len(flowise.predictions) == 3


async def test_a_server_that_asks_for_a_long_wait_is_not_waited_for(
    flowise: FlowiseServer, client_of: ClientOf
) -> None:
    flow = flowise.chatflow(Turn(status=429, headers={"retry-after": "600"}))

    with pytest.raises(UpstreamBusy):
        await streamed(client_of(flowise.url), flow.id)

    assert len(flowise.predictions) == 1


async def test_a_busy_gateway_is_asked_again(flowise: FlowiseServer, client_of: ClientOf) -> None:
    flow = flowise.chatflow(Turn(status=503), Turn("Better"))

    assert (await streamed(client_of(flowise.url), flow.id))[1].text == "Better"


@pytest.mark.parametrize("after", [0, 1])
async def test_a_stream_that_breaks_is_not_asked_again(flowise: FlowiseServer, client_of: ClientOf, after: int) -> None:
    flow = flowise.chatflow(Turn("one two three", breaks=True, after=after))

    with pytest.raises(AnswerLost):
        await streamed(client_of(flowise.url), flow.id)

    assert len(flowise.predictions) == 1


async def test_a_body_that_breaks_is_not_asked_again(flowise: FlowiseServer, client_of: ClientOf) -> None:
    flow = flowise.chatflow(Turn(breaks=True))

    with pytest.raises(AnswerLost):
        await client_of(flowise.url).predict(flow.id, prediction())

    assert len(flowise.predictions) == 1


async def test_a_stream_without_its_last_event_is_broken(flowise: FlowiseServer, client_of: ClientOf) -> None:
    ended = b'message:\ndata:{"event":"token","data":"half"}\n\n'
    flow = flowise.chatflow(Turn(raw=ended, headers={"content-type": "text/event-stream"}))

    with pytest.raises(AnswerLost):
        await streamed(client_of(flowise.url), flow.id)


async def test_heartbeats_are_no_sign_of_life(flowise: FlowiseServer, client_of: ClientOf) -> None:
    flowise.heartbeat_seconds = 0.02
    flow = flowise.chatflow(Turn(hangs=True))
    limits = replace(QUICK, idle_seconds=0.3)

    with pytest.raises(UpstreamTimeout, match="said nothing"):
        await streamed(client_of(flowise.url, limits=limits), flow.id)


@pytest.mark.parametrize("streamable", [False, True])
async def test_a_prediction_has_a_limit_in_all(
    flowise: FlowiseServer, client_of: ClientOf, *, streamable: bool
) -> None:
    flow = flowise.chatflow(Turn(hangs=True), streamable=streamable)
    limits = replace(QUICK, total_seconds=0.3)

    with pytest.raises(UpstreamTimeout, match="no complete answer"):
        await streamed(client_of(flowise.url, limits=limits), flow.id)


async def test_nobody_listens_there(client_of: ClientOf, loopback: None) -> None:
    with FlowiseServer() as gone:
        url = gone.url
    waited: list[float] = []

    async def wait(seconds: float) -> None:
        waited.append(seconds)

    with pytest.raises(UpstreamBusy) as raised:
        await client_of(url, limits=replace(QUICK, sleep=wait)).version()

    assert len(waited) == 2
    assert "127.0.0.1" not in raised.value.message


async def test_a_private_address_is_not_called(client_of: ClientOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EGRESS_ALLOWED_NETWORKS", raising=False)

    with pytest.raises(AddressBlocked) as raised:
        await client_of("http://10.0.0.7:3000").version()

    assert "10.0.0.7" not in raised.value.message


async def test_a_wrong_server_key_is_told(flowise: FlowiseServer, client_of: ClientOf) -> None:
    with pytest.raises(FlowiseKeyRefused):
        await client_of(flowise.url, key="wrong-key-0123456789").list_flows()


async def test_flows_are_listed_over_pages(
    flowise: FlowiseServer, client_of: ClientOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "PAGE", 2)
    ids = [flowise.chatflow(name=f"Flow {number}").id for number in range(3)]
    agent = flowise.agentflow(name="An agent")
    client = client_of(flowise.url)

    assert [flow.id for flow in await client.list_flows()] == [*ids, agent.id]
    assert [(flow.name, flow.kind) for flow in await client.list_flows("AGENTFLOW")] == [("An agent", "AGENTFLOW")]
    assert await client.version() == "3.1.4"


async def test_what_may_be_overridden_is_listed(flowise: FlowiseServer, client_of: ClientOf) -> None:
    flow = flowise.chatflow(enabled={"OpenAI": ("openAIApiKey",)})
    client = client_of(flowise.url)

    names = {(one.node_id, one.node, one.name) for one in await client.flow_config(flow.id)}

    assert ("chatOpenAI_0", "OpenAI", "openAIApiKey") in names
    assert (await client.flow(flow.id)).enabled["status"] is True


async def test_a_lost_answer_is_found_by_its_chat_id(flowise: FlowiseServer, client_of: ClientOf) -> None:
    tools = ({"tool": "search", "toolInput": {}, "toolOutput": "x"},)
    flow = flowise.chatflow(Turn("one two", breaks=True, after=1, tools=tools))
    client = client_of(flowise.url)
    asked = prediction()
    with pytest.raises(AnswerLost):
        await streamed(client, flow.id, asked)
    await flowise.until(lambda: flowise.messages)

    found = await client.find_answer(flow.id, session_id="a session", chat_ids=frozenset([asked.chat_id]))

    assert found is not None
    assert (found.text, found.recovered, found.lists["usedTools"]) == ("one two", True, [*tools])
    assert await client.find_answer(flow.id, session_id="a session", chat_ids=frozenset(["another"])) is None


async def test_an_aborted_agentflow_is_told_and_its_execution_says_so(
    flowise: FlowiseServer, client_of: ClientOf
) -> None:
    flow = flowise.agentflow(Turn("one two", hangs=True, after=1))
    client = client_of(flowise.url)
    asked = prediction()
    asking = asyncio.create_task(streamed(client, flow.id, asked))
    await flowise.until(lambda: flowise.executed)

    await client.abort(flow.id, asked.chat_id)

    with pytest.raises(Exception, match="aborted") as raised:
        await asking
    assert getattr(raised.value, "code", None) == "flow_aborted"
    (execution,) = await client.executions(flow.id, session_id="a session")
    assert execution.state == "ERROR"
    assert (await client.execution(execution.id)).state == "ERROR"


def test_a_prediction_does_not_show_its_overrides() -> None:
    asked = prediction(overrides={"openAIApiKey": "sk-canary-0123456789"})

    assert "canary" not in repr(asked)
