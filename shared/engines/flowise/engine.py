"""The flowise engine: one step asks the flow. Where an agentflow stops for a person, a step asks him, another goes on.

Everything is decided from the recorded steps: `predict.1` -> [`ask.1` -> `predict.2` -> ...] -> the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, cast

from shared.engines.flowise.answer import HumanStop
from shared.engines.flowise.config import Asked, FlowiseConfig, ask_of
from shared.engines.flowise.conversation import Resume
from shared.engines.flowise.performing import GRACE_SECONDS, Servers, predict
from shared.errors import InvalidInput
from shared.runs.engine import Decision, Fail, Finish, HumanRequest, Outcome, StartSteps, StepContext, Wait, Waiting
from shared.runs.models import Json, JsonObject, NewLog, NewStep, Records, Run, RunView, Step, StepError, StepResult

_PROMPT_CHARACTERS: Final = 4_000
_FEEDBACK_CHARACTERS: Final = 16_000
_TRIES: Final = 3  # of a prediction that the server did not even begin


@dataclass(slots=True)
class FlowiseState:
    """What is recorded of a run. `output` is the last prediction's; `answered` says how a person answered it."""

    config: FlowiseConfig | None = None
    asked: Asked | None = None
    output: JsonObject | None = None
    answered: JsonObject | None = None
    failure: StepError | None = None
    predictions: int = 0
    questions: int = 0
    open: set[str] = field(default_factory=set[str])

    @property
    def stop(self) -> HumanStop | None:
        """Where the flow waits for a person."""
        waiting = (self.output or {}).get("waiting")
        return HumanStop.from_json(waiting) if isinstance(waiting, dict) else None


class FlowiseEngine:
    """Implements `Engine[FlowiseState]`. Keeps nothing of a run.

    A run's output is its flow's answer: {"text", "sourceDocuments"?, "usedTools"?, "executionId"?, "usage"?, ...}.
    """

    name = "flowise"

    def __init__(self, servers: Servers | None = None) -> None:
        self._servers = servers or Servers()

    def open(self, view: RunView) -> FlowiseState:
        state = _fresh(view.run)
        for result in view.results:
            state = self.apply(state, result)
        return state

    def apply(self, state: FlowiseState, result: StepResult) -> FlowiseState:
        step = result.step
        state.open.discard(step.key)
        asks = step.kind == "human"
        state.questions += asks
        state.predictions += not asks
        if result.failed:
            state.failure = step.error or StepError("flow_failed", "The flow was not asked to the end.")
        elif asks:
            state.answered = _understood(result.output.get("response"), state.stop)
        else:
            state.output, state.answered = result.output, None
        return state

    def started(self, state: FlowiseState, step: Step) -> FlowiseState:
        state.open.add(step.key)
        return state

    def decide(self, state: FlowiseState) -> Decision:  # noqa: PLR0911 - one return for each thing that can come next
        if state.failure is not None:
            return Fail(state.failure)
        if state.open:
            return Wait()
        if state.config is None:
            return Fail(StepError("invalid_input", "A run of this engine needs an agent."))
        if state.output is None:
            return StartSteps((_prediction(state, state.config, "Ask the flow"),))
        if state.stop is None:
            return Finish(state.output)
        if state.answered is None:
            return StartSteps((_question(state),))
        return StartSteps((_prediction(state, state.config, "Go on with the flow"),))

    async def perform(self, state: FlowiseState, step: Step, ctx: StepContext) -> Outcome:
        if step.kind == "human":
            return _ask(state, state.stop)
        if state.config is None or state.asked is None:
            raise InvalidInput("A run of this engine needs an agent.")
        return await predict(state.config, state.asked, step, ctx, resume=_resume(state), servers=self._servers)


def _fresh(run: Run) -> FlowiseState:
    if run.agent is None:
        return FlowiseState()
    try:
        config = FlowiseConfig.read(run.agent.config)
    except InvalidInput:
        # What is wrong stands in the seller's own settings, which the run's people do not see.
        return FlowiseState(failure=StepError("agent_invalid", "The agent's settings for Flowise cannot be read."))
    try:
        return FlowiseState(config=config, asked=ask_of(config, run.input))
    except InvalidInput as error:
        return FlowiseState(config=config, failure=StepError(error.code, error.message))


def _prediction(state: FlowiseState, config: FlowiseConfig, name: str) -> NewStep:
    return NewStep(
        key=f"predict.{state.predictions + 1}",
        kind="prediction",
        name=name,
        # Not `effectful`, though a second prediction costs: then a crash would end the run, while its answer waits at
        # the server. The next attempt looks for that first.
        effect="idempotent",
        timeout_seconds=config.timeout_seconds + GRACE_SECONDS,
        credits_bound=config.credits,
        max_attempts=_TRIES,
    )


def _question(state: FlowiseState) -> NewStep:
    number = state.questions + 1
    return NewStep(key=f"ask.{number}", kind="human", name="Ask a person", effect="pure", max_attempts=1)


def _ask(state: FlowiseState, stop: HumanStop | None) -> Waiting:
    if stop is None:
        raise ValueError("the flow does not ask")
    said = (state.output or {}).get("text")
    prompt = ((said.strip() if isinstance(said, str) else "") or stop.prompt)[:_PROMPT_CHARACTERS]
    line = NewLog("user_input_required", prompt, {"options": [stop.proceed, stop.reject], "feedback": stop.feedback})
    # With options an answer must be one of them; where the flow takes words too, any answer may come and is checked.
    options = () if stop.feedback else (stop.proceed, stop.reject)
    return Waiting(HumanRequest(prompt, "question" if stop.feedback else "approval", options), Records((line,)))


def _understood(response: Json, stop: HumanStop | None) -> JsonObject | None:
    """What the flow is told: {"type", "startNodeId", "feedback"}; None when the answer says neither yes nor no."""
    if stop is None:
        return None
    feedback: Json = ""
    choice = response
    if isinstance(response, dict):
        choice, feedback = response.get("type"), response.get("feedback") or ""
    if not isinstance(choice, str) or not isinstance(feedback, str):
        return None
    choices = {stop.proceed.casefold(): "proceed", stop.reject.casefold(): "reject"}
    kind = choices.get(choice.strip().casefold()) or {"proceed": "proceed", "reject": "reject"}.get(choice.strip())
    if kind is None:
        return None
    return {"type": kind, "startNodeId": stop.node_id, "feedback": feedback[:_FEEDBACK_CHARACTERS]}


def _resume(state: FlowiseState) -> Resume | None:
    stop, output = state.stop, state.output or {}
    if stop is None or state.answered is None:
        return None
    message_id = output.get("chatMessageId")
    return Resume(
        stop=stop,
        chat_id=cast("str", output["chatId"]),
        session_id=cast("str", output["sessionId"]),
        message_id=message_id if isinstance(message_id, str) else None,
        human_input=state.answered,
    )
