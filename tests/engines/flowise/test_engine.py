"""Runs of the flowise engine: what a flow is sent, what becomes of its answer, and of an answer that was lost."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, cast

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.stand_ins.flowise import STORED_KEY, FlowiseServer, Turn
from shared.engines.flowise.conversation import chat_id_of
from shared.engines.flowise.engine import FlowiseEngine, FlowiseState
from shared.engines.flowise.performing import Servers
from shared.runs.bounds import RESULT_BYTES, recordable
from shared.runs.engine import Done, Fail, Failed, Finish, HumanRequest, Outcome, StepContext
from shared.runs.models import Json, Step, StepError
from tests.engines.drive import ACCOUNT_ID, RUN_ID
from tests.engines.flowise.conftest import QUICK, SERVER_KEY
from tests.engines.flowise.drive import (
    IMPATIENT,
    PERSONS_KEY,
    FlowDrive,
    WithCredentials,
    drive,
    engine_of,
)

INJECTED = {"openAIApiKey": "openai.api_key"}
OPENAI = {"OpenAI": ("openAIApiKey",)}


async def test_a_flow_is_asked_and_its_answer_is_the_runs(flowise: FlowiseServer) -> None:
    flow = flowise.chatflow(Turn("Hello you", documents=({"pageContent": "p"},)))
    run = drive(flowise, flow)

    output = (await run.finish()).output

    assert (output["text"], output["sourceDocuments"]) == ("Hello you", [{"pageContent": "p"}])
    assert run.keys == ["predict.1"]
    assert run.contexts[0].shown == ["Hello", " you"]
    assert run.said("user") == [{"type": "text", "text": "Hi"}]
    assert run.said("assistant") == [{"type": "text", "text": "Hello you"}]
    assert flowise.predictions[0].headers["authorization"] == f"Bearer {SERVER_KEY}"


async def test_an_agentflow_leaves_lines_on_its_nodes_and_its_executions_id(flowise: FlowiseServer) -> None:
    tools = ({"tool": "calculator", "toolInput": {"secret": "s3cret"}, "toolOutput": "4"},)
    run = drive(flowise, flowise.agentflow(Turn(tools=tools)))

    output = (await run.finish()).output

    assert output["executionId"] == flowise.executed[0]["id"]
    assert output["usage"] == {"input_tokens": 12, "output_tokens": 5, "total_tokens": 17}
    assert run.lines("info") == ["Start: finished", "LLM: finished"]
    assert run.lines("tool_success") == ["calculator answered"]
    assert "s3cret" not in str(run.logs)


async def test_a_person_key_is_what_the_model_gets(flowise: FlowiseServer) -> None:
    run = drive(flowise, flowise.chatflow(enabled=OPENAI), injection=INJECTED)

    await run.finish()

    assert flowise.calls[0].key == PERSONS_KEY
    assert engine_of(run).opened == ["flowise", "openai"]


@pytest.mark.parametrize(
    ("enabled", "injection"),
    [
        (("llmModelConfig",), {"llmModelConfig": {"openAIApiKey": "openai.api_key"}}),
        (("llmModelConfig",), {"llmModelConfig": {"llmAgentflow_0": {"openAIApiKey": "openai.api_key"}}}),
        (("openAIApiKey",), INJECTED),
    ],
)
async def test_an_agentflow_takes_the_key_in_its_own_ways_and_its_echo_is_not_kept(
    flowise: FlowiseServer, enabled: tuple[str, ...], injection: dict[str, Any]
) -> None:
    run = drive(flowise, flowise.agentflow(enabled={"LLM": enabled}), injection=injection)

    finish = await run.finish()

    assert flowise.calls[0].key == PERSONS_KEY
    assert PERSONS_KEY not in f"{finish} {run.rows} {run.logs}"


@pytest.mark.parametrize("may_look", [True, False])
async def test_a_run_fails_before_anything_is_asked_when_its_key_would_be_ignored(
    flowise: FlowiseServer, *, may_look: bool
) -> None:
    """Otherwise it would go on with the key that is stored at the server, at whoever's cost."""
    flowise.may = flowise.may if may_look else frozenset()
    run = drive(flowise, flowise.chatflow(), injection=INJECTED)

    error = await run.fail()

    assert error.code == "injection_denied"
    assert "openai" in error.message
    assert flowise.predictions == []


async def test_an_agent_may_say_that_the_key_is_not_required(flowise: FlowiseServer) -> None:
    run = drive(flowise, flowise.chatflow(), injection=INJECTED, require_injection=False)

    await run.finish()

    assert flowise.calls[0].key == STORED_KEY
    assert run.lines("warning") == ["The flow ignores some of the agent's settings"]


async def test_settings_that_the_flow_ignores_are_said_and_the_flow_is_asked(flowise: FlowiseServer) -> None:
    flow = flowise.chatflow(enabled={"OpenAI": ("temperature",)}, variables=("tone",))
    wanted = {"overrideConfig": {"temperature": 0.1, "modelName": "m"}, "vars": {"tone": "$.tone"}}
    run = drive(flowise, flow, given={"question": "Hi", "tone": "kind"}, input=wanted)

    await run.finish()

    assert dict(flowise.calls[0].settings) == {"temperature": 0.1}
    assert dict(flowise.calls[0].variables) == {"tone": "kind"}
    assert [line.metadata for line in run.logs if line.log_type == "warning"] == [{"settings": 1}]


async def test_a_session_lasts_for_the_run_or_for_the_person(flowise: FlowiseServer) -> None:
    flow = flowise.chatflow()
    await drive(flowise, flow).finish()
    await drive(flowise, flow, session="user").finish()
    await drive(flowise, flow, session="user").finish()

    sessions = [one.body["overrideConfig"]["sessionId"] for one in flowise.predictions]

    assert sessions[0] == str(RUN_ID)
    assert sessions[1] == sessions[2] != sessions[0]
    assert str(ACCOUNT_ID) not in sessions[1]


@pytest.mark.parametrize(
    ("turn", "options", "code"),
    [
        (Turn(fails="flowStateArray is not iterable"), {}, "flow_failed"),
        (Turn(fails="500 stub exploded"), {}, "model_unavailable"),
        (Turn(), {"good_keys": frozenset({"sk-good"})}, "model_key_refused"),
        (Turn(), {"api_key": "another-key-of-the-flow"}, "flow_key_refused"),
    ],
)
async def test_a_failure_ends_the_run_with_its_code_and_is_not_repeated(
    flowise: FlowiseServer, turn: Turn, options: dict[str, Any], code: str
) -> None:
    run = drive(flowise, flowise.agentflow(turn, **options))

    error = await run.fail()

    assert (error.code, error.retryable) == (code, False)
    assert len(flowise.predictions) == 1


async def test_a_failure_keeps_the_lines_of_what_went_before(flowise: FlowiseServer) -> None:
    run = drive(flowise, flowise.agentflow(Turn(fails="boom")))

    await run.fail()

    assert run.lines("info") == ["Start: finished"]


async def test_a_limited_flow_is_left_for_the_runner_to_ask_later(flowise: FlowiseServer) -> None:
    run = drive(flowise, flowise.chatflow(Turn(status=429, headers={"retry-after": "600"})), credits=7)

    outcome = await perform_once(run)

    assert isinstance(outcome, Failed)
    assert (outcome.error.code, outcome.error.retryable, outcome.retry_after_seconds) == ("upstream_busy", True, 600)
    assert outcome.credits == 0


async def test_a_prediction_costs_what_the_agent_says(flowise: FlowiseServer) -> None:
    run = drive(flowise, flowise.chatflow(), credits=7)

    await run.finish()

    assert run.credits == 7


# -- answers that were lost -----------------------------------------------------------------------------------------


async def test_an_answer_whose_stream_broke_is_read_from_the_server(flowise: FlowiseServer) -> None:
    run = drive(flowise, flowise.chatflow(Turn("one two three", breaks=True, after=1)))

    output = (await run.finish()).output

    assert (output["text"], output["recovered"]) == ("one two three", True)
    assert len(flowise.predictions) == 1
    assert run.lines("info") == ["The answer was lost on its way, and was read from the server again"]


async def test_a_broken_agentflow_is_waited_for_while_it_is_at_work(flowise: FlowiseServer) -> None:
    flow = flowise.agentflow(Turn("one two three", breaks=True, hangs=True, after=1))
    run = drive(flowise, flow, servers=replace(IMPATIENT, patience=replace(IMPATIENT.patience, sleep=asyncio.sleep)))
    running = asyncio.create_task(run.finish())
    await flowise.until(lambda: [one for one in flowise.requests if one.path.endswith("/executions")])

    flowise.release()

    assert (await running).output["text"] == "one two three"
    assert len(flowise.predictions) == 1


async def test_what_was_shown_is_not_asked_for_again(flowise: FlowiseServer) -> None:
    flow = flowise.chatflow(Turn("one two", breaks=True, after=1, loses_answer=True), Turn("another answer"))

    error = await drive(flowise, flow, servers=IMPATIENT).fail()

    assert error.code == "answer_lost"
    assert len(flowise.predictions) == 1


async def test_what_broke_before_a_word_is_asked_again_under_another_chat_id(flowise: FlowiseServer) -> None:
    broken = Turn(breaks=True, loses_answer=True)
    run = drive(flowise, flowise.chatflow(broken, broken, Turn("third")), servers=IMPATIENT)

    output = (await run.finish()).output

    assert output["text"] == "third"
    assert len({one.body["chatId"] for one in flowise.predictions}) == 3


@pytest.mark.parametrize("status", [502, 504])
@pytest.mark.parametrize("streaming", [True, False])
async def test_an_answer_that_a_gateway_lost_is_read_from_the_server(
    flowise: FlowiseServer, *, status: int, streaming: bool
) -> None:
    flow = flowise.chatflow(Turn("paid for", status=status, reached=True), Turn("paid twice"))
    run = drive(flowise, flow, servers=IMPATIENT, streaming=streaming)

    output = (await run.finish()).output

    assert (output["text"], output["recovered"]) == ("paid for", True)
    assert len(flowise.predictions) == 1


async def test_what_a_gateway_never_passed_on_is_looked_for_and_then_asked_again(flowise: FlowiseServer) -> None:
    lost = Turn(status=502)
    run = drive(flowise, flowise.chatflow(lost, lost, Turn("third")), servers=IMPATIENT)

    output = (await run.finish()).output

    assert output["text"] == "third"
    assert len({one.body["chatId"] for one in flowise.predictions}) == 3
    assert "chatmessage" in "".join(one.path for one in flowise.requests)


async def test_three_broken_tries_are_the_end(flowise: FlowiseServer) -> None:
    broken = Turn(breaks=True, loses_answer=True)
    run = drive(flowise, flowise.chatflow(broken, broken, broken, Turn()), servers=IMPATIENT)

    assert (await run.fail()).code == "answer_lost"
    assert len(flowise.predictions) == 3


async def test_another_attempt_finds_the_answer_of_the_first_and_asks_nothing(flowise: FlowiseServer) -> None:
    flow = flowise.chatflow(Turn("the first answer"))
    await drive(flowise, flow).finish()
    run = drive(flowise, flow)
    engine_of(run).attempt = 2

    output = (await run.finish()).output

    assert (output["text"], output["recovered"]) == ("the first answer", True)
    assert len(flowise.predictions) == 1


@pytest.mark.parametrize("may_look", [True, False])
async def test_another_attempt_without_a_trace_of_the_first_asks_again(
    flowise: FlowiseServer, *, may_look: bool
) -> None:
    flow = flowise.agentflow()
    key = SERVER_KEY if may_look else "a key that only asks flows"
    run = drive(flowise, flow, servers=IMPATIENT, key=key)
    engine_of(run).attempt = 2

    output = (await run.finish()).output

    assert output["chatId"] == chat_id_of(run.step("predict.1"), 2, 1)
    assert len(flowise.predictions) == 1


async def test_tries_have_chat_ids_of_their_own(flowise: FlowiseServer) -> None:
    run = drive(flowise, flowise.chatflow())
    await run.finish()
    step = run.step("predict.1")

    ids = {chat_id_of(step, attempt, number) for attempt in range(1, 9) for number in range(1, 4)}

    assert len(ids) == 24
    assert flowise.predictions[0].body["chatId"] == chat_id_of(step, 1, 1)


# -- time and cancellation ------------------------------------------------------------------------------------------


async def test_a_cancelled_step_stops_at_once_and_aborts_the_flow(flowise: FlowiseServer) -> None:
    run = drive(flowise, flowise.agentflow(Turn("one two", hangs=True, after=1)))
    running = asyncio.create_task(run.run())
    await flowise.until(lambda: run.contexts and run.contexts[0].shown)

    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running
    assert flowise.aborted == [flowise.predictions[0].body["chatId"]]
    await flowise.until(lambda: flowise.executed[0]["state"] == "ERROR")


async def test_a_flow_that_says_nothing_is_aborted_and_told(flowise: FlowiseServer) -> None:
    impatient = Servers(limits=replace(QUICK, idle_seconds=0.3))
    run = drive(flowise, flowise.chatflow(Turn(hangs=True)), servers=impatient)

    error = await run.fail()

    assert (error.code, error.retryable) == ("upstream_timeout", False)
    assert len(flowise.aborted) == 1


# -- flows that ask a person ----------------------------------------------------------------------------------------


async def test_a_flow_that_asks_a_person_goes_on_with_the_answer(flowise: FlowiseServer) -> None:
    run = drive(flowise, flowise.agentflow(Turn("May I send it?", asks=True)))
    run.answer = lambda _: "Proceed"

    output = (await run.finish()).output

    assert output["text"] == "proceed:"
    assert run.keys == ["predict.1", "ask.1", "predict.2"]
    assert run.requests == [HumanRequest("May I send it?", "approval", ("Proceed", "Reject"))]
    first, second = (one.body for one in flowise.predictions)
    assert second["humanInput"] == {"type": "proceed", "startNodeId": "humanInputAgentflow_0", "feedback": ""}
    assert second["chatId"] == first["chatId"]
    assert "waiting" not in output
    assert len(flowise.executed) == 1


async def test_words_go_with_the_answer_where_the_flow_takes_them(flowise: FlowiseServer) -> None:
    run = drive(flowise, flowise.agentflow(Turn("Well?", asks=True, feedback=True)))
    answers: list[Json] = ["maybe", 7, {"type": "reject", "feedback": "Too long"}]
    run.answer = lambda _: answers.pop(0)

    output = (await run.finish()).output

    assert output["text"] == "reject: Too long"
    assert run.keys == ["predict.1", "ask.1", "ask.2", "ask.3", "predict.2"]
    assert run.requests[0] == HumanRequest("Well?", "question", ())


async def test_an_answer_that_came_through_before_a_crash_is_not_given_twice(flowise: FlowiseServer) -> None:
    flow = flowise.agentflow(Turn("Well?", asks=True))
    run = drive(flowise, flow, servers=IMPATIENT)
    asked = run.engine

    async def twice(state: FlowiseState, step: Step, ctx: StepContext) -> Outcome:
        assert isinstance(asked, WithCredentials)
        outcome = await WithCredentials.perform(asked, state, step, ctx)
        if step.key == "predict.2":
            asked.attempt = 2
            outcome = await WithCredentials.perform(asked, state, step, ctx)
        return outcome

    asked.perform = twice  # type: ignore[method-assign]
    run.answer = lambda _: "Proceed"

    output = (await run.finish()).output

    assert (output["text"], output["recovered"]) == ("proceed:", True)
    assert len(flowise.predictions) == 2


async def test_a_flow_that_does_not_wait_any_more_says_so(flowise: FlowiseServer) -> None:
    flow = flowise.agentflow(Turn("Well?", asks=True))
    run = drive(flowise, flow)

    def answer(_: HumanRequest) -> Json:
        flowise.executed[0]["state"] = "FINISHED"
        return "Reject"

    run.answer = answer

    assert (await run.fail()).code == "flow_not_waiting"


# -- what cannot be run ---------------------------------------------------------------------------------------------


async def test_a_run_without_an_agent_is_refused() -> None:
    error = await FlowDrive(FlowiseEngine(), {"question": "Hi"}, config=None).fail()

    assert error.code == "invalid_input"


async def test_settings_that_cannot_be_read_are_not_shown() -> None:
    error = await FlowDrive(FlowiseEngine(), {"question": "Hi"}, config={"flow_id": "s3cret"}).fail()

    assert (error.code, "s3cret" in error.message) == ("agent_invalid", False)


async def test_a_run_without_a_question_is_refused(flowise: FlowiseServer) -> None:
    error = await drive(flowise, flowise.chatflow(), given={"prompt": "Hi"}).fail()

    assert error.code == "invalid_input"
    assert flowise.requests == []


async def test_a_server_key_goes_to_its_own_server_alone(flowise: FlowiseServer) -> None:
    error = await drive(flowise, flowise.chatflow(), base_url="https://elsewhere.example").fail()

    assert error.code == "invalid_input"
    assert flowise.requests == []


async def test_an_open_server_needs_no_credential(flowise: FlowiseServer) -> None:
    flow = flowise.chatflow()
    config: Any = {"flow_id": flow.id, "base_url": flowise.url}
    run = FlowDrive(WithCredentials(FlowiseEngine(), {}), {"question": "Hi"}, config=config)

    assert (await run.finish()).output["text"] == "Hello from the flow"
    assert "authorization" not in flowise.predictions[0].headers


async def test_no_server_is_told() -> None:
    config: Any = {"flow_id": str(RUN_ID)}
    run = FlowDrive(WithCredentials(FlowiseEngine(), {}), {"question": "Hi"}, config=config)

    assert (await run.fail()).code == "invalid_input"


async def test_a_missing_credential_is_told(flowise: FlowiseServer) -> None:
    run = drive(flowise, flowise.chatflow(enabled=OPENAI), injection={"openAIApiKey": "gemini.api_key"})

    assert (await run.fail()).code == "not_found"


# -- bounds ---------------------------------------------------------------------------------------------------------


async def test_a_flood_of_an_answer_is_cut_and_can_be_stored(flowise: FlowiseServer) -> None:
    flood = tuple({"pageContent": "ß" * 2_000, "number": number} for number in range(500))
    tools = tuple({"tool": f"tool {number}", "toolInput": "x" * 3_000} for number in range(300))
    run = drive(flowise, flowise.agentflow(Turn("\u20ac" * 300_000, documents=flood, tools=tools)))
    outcome = await perform_once(run)

    assert isinstance(outcome, Done)
    stored = recordable(outcome, step_of()).outcome
    assert isinstance(stored, Done)
    assert outcome.output["cut"] == ["sourceDocuments", "text", "usedTools"]
    assert len(orjson.dumps(outcome.output)) < RESULT_BYTES / 2


# -- the pure part --------------------------------------------------------------------------------------------------

STOP: Json = {"prompt": "Well?", "node_id": "n", "proceed": "Yes", "reject": "No", "feedback": True}
STOPPED: Json = {"text": "Well?", "chatId": "c", "sessionId": "s", "chatMessageId": "m", "waiting": STOP}
OUTPUTS = st.sampled_from([{"text": "done"}, STOPPED, STOPPED])
ANSWERS = st.sampled_from(
    [
        "Yes",
        "no",
        "PROCEED",
        "reject",
        "what?",
        7,
        [],
        {"type": "Yes"},
        {"type": "No", "feedback": "x"},
        {"feedback": 1},
    ]
)


class Played(FlowiseEngine):
    """The engine whose flow answers what is drawn."""

    def __init__(self, outcomes: list[Any]) -> None:
        super().__init__()
        self._outcomes = outcomes

    async def perform(self, state: FlowiseState, step: Step, ctx: StepContext) -> Outcome:
        if step.kind == "human":
            return await super().perform(state, step, ctx)
        drawn = self._outcomes.pop(0) if self._outcomes else {"text": "over"}
        return Failed(StepError("flow_failed", "x")) if drawn is None else Done(drawn)


@given(st.lists(OUTPUTS | st.none(), max_size=6), st.lists(ANSWERS, max_size=12))
async def test_any_conversation_comes_to_an_end_that_every_machine_sees(
    outcomes: list[Any], answers: list[Any]
) -> None:
    """`Drive` rebuilds the state from rows after every step, and compares."""
    played = FlowDrive(Played([*outcomes]), {"question": "Hi"}, config={"flow_id": str(RUN_ID)})
    played.answer = lambda _: answers.pop(0) if answers else "Yes"

    end = await played.run()

    reached = next((one for one in outcomes if one is None or "waiting" not in one), {"text": "over"})
    assert (isinstance(end, Fail), isinstance(end, Finish)) == (reached is None, reached is not None)
    assert played.keys[0] == "predict.1"


async def perform_once(run: FlowDrive) -> Outcome:
    """The outcome of the first step, as the engine gives it to the runner."""
    engine = cast("WithCredentials", run.engine)
    state = engine.open(run.view())
    view = run.view()
    context = ShownContext(view.run)
    return await engine.perform(state, step_of(), context)  # type: ignore[arg-type]


class ShownContext:
    """A step context that keeps nothing."""

    def __init__(self, run: Any) -> None:
        self.run = run

    async def delta(self, text: str) -> None:
        del text

    def log(self, line: Any) -> None:
        del line


def step_of() -> Step:
    row = {
        "step_no": 1,
        "key": "predict.1",
        "kind": "prediction",
        "name": "Ask the flow",
        "status": "running",
        "attempt": 1,
        "failed_attempts": 0,
        "max_attempts": 3,
        "effect": "idempotent",
        "effect_key": str(RUN_ID),
        "input": {},
        "output": None,
        "error": None,
        "waits_for": None,
        "due_in_seconds": 0,
        "timeout_seconds": 320,
        "credits_bound": 7,
        "phase": None,
        "finished_revision": None,
    }
    return Step.from_row(cast("Any", row))
