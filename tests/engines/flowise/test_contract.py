"""What our client believes of Flowise, held against the stand-in and, by `scripts/flowise-check`, the real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from uuid import uuid4

import pytest

from local.stand_ins.flowise import STORED_KEY, FlowiseServer
from shared.engines.flowise.answer import Answer
from shared.engines.flowise.client import FlowiseClient, Limits
from shared.engines.flowise.failures import (
    FlowAborted,
    FlowiseKeyRefused,
    FlowKeyRefused,
    FlowNotWaiting,
    FlowUnknown,
    ModelKeyRefused,
    NotFlowise,
)
from shared.engines.flowise.overrides import denied
from shared.engines.flowise.shapes import Prediction
from tests.support.flowise_bench import ANSWER, REFUSED_KEY, Bench, StandIn
from tests.support.flowise_real import real_bench
from tests.support.runs import until

PERSONS_KEY = "sk-of-a-person-0123456789"
LIMITS = Limits(total_seconds=60, idle_seconds=50)
ClientOf = Callable[..., FlowiseClient]


@pytest.fixture
async def bench(loopback: None) -> AsyncGenerator[Bench]:
    async with real_bench() as real:
        if real is not None:
            yield real
            return
    with FlowiseServer() as server:
        yield StandIn(server)


@pytest.fixture
def client(bench: Bench, client_of: ClientOf) -> FlowiseClient:
    return client_of(bench.url, key=bench.server_key, limits=LIMITS)


def asked(**changes: object) -> Prediction:
    prediction = Prediction(chat_id=str(uuid4()), session_id=str(uuid4()), question="Say hello")
    return replace(prediction, **changes)  # type: ignore[arg-type]


async def streamed(client: FlowiseClient, flow_id: str, prediction: Prediction) -> tuple[list[str], Answer]:
    names: list[str] = []
    answer = Answer()
    async with aclosing(client.stream(flow_id, prediction)) as events:
        async for event in events:
            names.append(event.name)
            answer.add(event)
    return names, answer


async def test_a_chatflow_says_the_same_in_a_stream_and_as_json(bench: Bench, client: FlowiseClient) -> None:
    flow_id = await bench.chatflow()
    prediction = asked()

    names, answer = await streamed(client, flow_id, prediction)
    whole = await client.predict(flow_id, asked())

    assert answer.text == whole.text == ANSWER
    assert names[0] == "start"
    assert names[-1] == "metadata"
    assert (answer.chat_id, answer.session_id) == (prediction.chat_id, prediction.session_id)
    assert await client.is_streaming(flow_id)


async def test_an_agentflow_tells_its_nodes_and_tokens(bench: Bench, client: FlowiseClient) -> None:
    flow_id = await bench.agentflow()

    names, answer = await streamed(client, flow_id, asked())
    whole = await client.predict(flow_id, asked())

    assert answer.text == whole.text == ANSWER
    assert {"nextAgentFlow", "agentFlowExecutedData", "token"} <= set(names)
    assert [node["status"] for node in answer.nodes.values()] == ["FINISHED", "FINISHED"]
    assert answer.usage["total_tokens"] > 0
    assert whole.execution_id is not None
    assert (await client.execution(whole.execution_id)).state == "FINISHED"


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_protected_flow_wants_its_key(
    bench: Bench, client: FlowiseClient, client_of: ClientOf, *, streaming: bool
) -> None:
    flow_id = await bench.chatflow(protected=True)
    stranger = client_of(bench.url, key="another-key-0123456789", limits=LIMITS)

    with pytest.raises(FlowKeyRefused):
        await (streamed(stranger, flow_id, asked()) if streaming else stranger.predict(flow_id, asked()))

    assert (await client.predict(flow_id, asked())).text == ANSWER


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_model_that_refuses_a_key_is_known_from_a_server_that_does(
    bench: Bench, client: FlowiseClient, *, streaming: bool
) -> None:
    flow_id = await bench.chatflow(enabled=("openAIApiKey",))
    prediction = asked(overrides={"openAIApiKey": REFUSED_KEY})

    with pytest.raises(ModelKeyRefused):
        await (streamed(client, flow_id, prediction) if streaming else client.predict(flow_id, prediction))


async def test_flows_that_there_are_not(bench: Bench, client: FlowiseClient) -> None:
    for flow_id in (str(uuid4()), "no-uuid"):
        with pytest.raises(FlowUnknown):
            await client.predict(flow_id, asked())


async def test_a_server_key_that_is_none(bench: Bench, client_of: ClientOf) -> None:
    with pytest.raises(FlowiseKeyRefused):
        await client_of(bench.url, key="no-key-0123456789", limits=LIMITS).list_flows()


async def test_a_page_is_not_taken_for_an_answer(bench: Bench, client_of: ClientOf) -> None:
    with pytest.raises(NotFlowise):
        await client_of(f"{bench.url}/somewhere", key=bench.server_key, limits=LIMITS).version()


async def test_an_override_that_is_not_enabled_is_ignored_and_known_beforehand(
    bench: Bench, client: FlowiseClient
) -> None:
    flow_id = await bench.chatflow()
    overrides = {"openAIApiKey": PERSONS_KEY}

    await client.predict(flow_id, asked(overrides=overrides))

    assert bench.keys()[-1] == STORED_KEY
    assert denied(overrides, await client.flow(flow_id), await client.flow_config(flow_id)) == ["openAIApiKey"]


@pytest.mark.parametrize("value", [PERSONS_KEY, {"chatOpenAI_0": PERSONS_KEY}])
async def test_an_enabled_key_reaches_the_model_of_a_chatflow(
    bench: Bench, client: FlowiseClient, value: str | dict[str, str]
) -> None:
    flow_id = await bench.chatflow(enabled=("openAIApiKey",))
    overrides = {"openAIApiKey": value}

    await streamed(client, flow_id, asked(overrides=overrides))

    assert bench.keys()[-1] == PERSONS_KEY
    assert denied(overrides, await client.flow(flow_id), await client.flow_config(flow_id)) == []


@pytest.mark.parametrize(
    "overrides",
    [
        {"llmModelConfig": {"openAIApiKey": PERSONS_KEY}},
        {"llmModelConfig": {"llmAgentflow_0": {"openAIApiKey": PERSONS_KEY}}},
        {"openAIApiKey": PERSONS_KEY},
    ],
)
async def test_an_enabled_key_reaches_the_model_of_an_agentflow_and_its_echo_is_not_kept(
    bench: Bench, client: FlowiseClient, overrides: dict[str, object]
) -> None:
    (name,) = overrides
    flow_id = await bench.agentflow(enabled=(name,))

    _, answer = await streamed(client, flow_id, asked(overrides=overrides))

    assert bench.keys()[-1] == PERSONS_KEY
    assert PERSONS_KEY not in str(answer)
    assert denied(overrides, await client.flow(flow_id), await client.flow_config(flow_id)) == []


async def test_flows_are_listed(bench: Bench, client: FlowiseClient) -> None:
    chatflow, agentflow = await bench.chatflow(), await bench.agentflow()

    kinds = {flow.id: flow.kind for flow in await client.list_flows()}

    assert (kinds[chatflow], kinds[agentflow]) == ("CHATFLOW", "AGENTFLOW")
    assert agentflow in [flow.id for flow in await client.list_flows("AGENTFLOW")]
    assert (await client.version()).startswith("3.")


async def test_an_answer_is_found_by_its_chat_id(bench: Bench, client: FlowiseClient) -> None:
    flow_id = await bench.agentflow()
    prediction = asked()
    await streamed(client, flow_id, prediction)

    session = prediction.session_id
    found = await client.find_answer(flow_id, session_id=session, chat_ids=frozenset([prediction.chat_id]))

    assert found is not None
    assert (found.text, found.execution_id is not None) == (ANSWER, True)
    assert await client.find_answer(flow_id, session_id=session, chat_ids=frozenset([str(uuid4())])) is None
    (execution,) = await client.executions(flow_id, session_id=session)
    assert (execution.id, execution.state) == (found.execution_id, "FINISHED")


async def test_an_aborted_agentflow_ends(bench: Bench, client: FlowiseClient) -> None:
    flow_id = await bench.hanging()
    prediction = asked()
    asking = asyncio.create_task(streamed(client, flow_id, prediction))
    calls = len(bench.keys())

    async def at_work() -> bool:
        return len(bench.keys()) > calls

    await until(at_work)

    await client.abort(flow_id, prediction.chat_id)

    with pytest.raises(FlowAborted):
        await asking
    (execution,) = await client.executions(flow_id, session_id=prediction.session_id)
    assert execution.state in {"ERROR", "TERMINATED"}


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_flow_stops_for_a_person_and_goes_on(bench: Bench, client: FlowiseClient, *, streaming: bool) -> None:
    flow_id = await bench.asking()
    prediction = asked()
    first = (await streamed(client, flow_id, prediction))[1] if streaming else await client.predict(flow_id, prediction)
    assert first.stop is not None
    assert (first.stop.proceed, first.stop.reject) == ("Proceed", "Reject")

    human_input: dict[str, object] = {"type": "proceed", "startNodeId": first.stop.node_id, "feedback": "Yes"}
    answer = replace(prediction, question="", human_input=human_input)  # type: ignore[arg-type]
    second = (await streamed(client, flow_id, answer))[1] if streaming else await client.predict(flow_id, answer)

    assert second.stop is None
    assert second.text
    (execution,) = await client.executions(flow_id, session_id=prediction.session_id)
    assert execution.state == "FINISHED"
    with pytest.raises(FlowNotWaiting):
        await client.predict(flow_id, answer)
