"""One question to a flow, and what is done when the answer is lost on its way.

A prediction cannot be made idempotent at the server. So each try has a chat id of its own, drawn from the step's effect
key, and before another one is made the server is asked whether an earlier one was answered, or is still at it. What was
shown to viewers is never asked for again in the same attempt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, cast
from uuid import uuid5

from shared.crash_points import crash_point
from shared.engines.flowise.answer import Answer, HumanStop, from_body
from shared.engines.flowise.client import FlowiseClient
from shared.engines.flowise.config import Asked
from shared.engines.flowise.failures import AnswerLost, FlowAborted, FlowiseKeyRefused, FlowNotWaiting, FlowUnknown
from shared.engines.flowise.shapes import Prediction
from shared.engines.flowise.viewing import Viewing
from shared.errors import AppError, UpstreamTimeout
from shared.logs import logger
from shared.runs.models import JsonObject, Step

log = logger(__name__)

TRIES: Final = 3
_PAUSES: Final = (0.25, 0.5, 1.0, 2.0)  # seconds between two looks for an answer; then the last one again and again
_AT_WORK: Final = "INPROGRESS"
_DEAD: Final = frozenset({"ERROR", "TERMINATED", "TIMEOUT"})


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a lost answer is looked for while nothing says that it will come: chatflows have no executions."""

    after_crash_seconds: float = 5.0
    after_break_seconds: float = 30.0
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


@dataclass(frozen=True, slots=True)
class Resume:
    """The answer to what a flow has asked, and where it asked."""

    stop: HumanStop
    chat_id: str
    session_id: str
    message_id: str | None
    human_input: JsonObject


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, of which flow, within which memory. `own_session`: nothing but this run uses it."""

    flow_id: str
    session_id: str
    own_session: bool
    asked: Asked
    overrides: JsonObject
    resume: Resume | None
    streaming: bool

    def prediction(self, chat_id: str) -> Prediction:
        if self.resume is not None:
            return Prediction(
                chat_id, self.session_id, overrides=self.overrides, human_input=self.resume.human_input, question=""
            )
        asked = self.asked
        return Prediction(chat_id, self.session_id, asked.question, asked.form, self.overrides, asked.uploads)


def chat_id_of(step: Step, attempt: int, number: int) -> str:
    """The chat id of a try: the same on whatever machine it is computed, and no other try's."""
    return str(uuid5(step.effect_key, f"{attempt}.{number}"))


class Conversation:
    """Asks one `Question` in one attempt of a step."""

    def __init__(
        self, client: FlowiseClient, question: Question, step: Step, viewing: Viewing, *, patience: Patience
    ) -> None:
        self._client = client
        self._question = question
        self._step = step
        self._viewing = viewing
        self._patience = patience

    async def answer(self, *, seconds: float) -> Answer:
        """The whole answer, or where the flow has stopped for a person.

        Raises:
            UpstreamTimeout: it took longer than `seconds`, all tries together.
            AnswerLost: the connection broke, and the server has no answer.
            AppError: see `failures`.
        """
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                return await self._answer()
        except TimeoutError:
            if not limit.expired():
                raise
            raise UpstreamTimeout(f"The flow gave no complete answer within {seconds:g} seconds.") from None

    async def _answer(self) -> Answer:
        lost: AnswerLost | None = None
        for number in range(1, TRIES + 1):
            if lost is not None or self._step.attempt > 1:
                found = await self._recovered(broke=lost is not None)
                if found is not None:
                    self._viewing.line("info", "The answer was lost on its way, and was read from the server again")
                    return found
            if lost is not None and self._viewing.shown:
                break
            try:
                return await self._ask(self._chat_id(number))
            except AnswerLost as error:
                log.warning("flowise.answer_lost step_no=%d try=%d", self._step.step_no, number)
                lost = error
            except FlowNotWaiting:
                if self._step.attempt == 1 and lost is None:
                    raise
                lost = AnswerLost("The flow has gone on, but its answer is not to be found.")
        raise lost or AnswerLost("The connection to Flowise broke before the answer was complete.")

    def _chat_id(self, number: int) -> str:
        if self._question.resume is not None:
            return self._question.resume.chat_id  # the stream that asked has ended, so the id is free
        return chat_id_of(self._step, self._step.attempt, number)

    async def _ask(self, chat_id: str) -> Answer:
        crash_point("before_model_call")
        prediction = self._question.prediction(chat_id)
        try:
            answer = await self._asked(prediction)
        except (UpstreamTimeout, asyncio.CancelledError):
            await self._abort(chat_id)
            raise
        crash_point("after_model_call")
        answer.chat_id = answer.chat_id or chat_id
        answer.session_id = answer.session_id or self._question.session_id
        if answer.nodes and answer.execution_id is None:
            answer.execution_id = await self._execution_of(chat_id)
        return answer

    async def _asked(self, prediction: Prediction) -> Answer:
        if not self._question.streaming:
            answer = await self._client.predict(self._question.flow_id, prediction)
            await self._viewing.text(answer.text)
            return answer
        answer = Answer()
        async with aclosing(self._client.stream(self._question.flow_id, prediction)) as events:
            async for event in events:
                if event.name == "prediction":
                    answer = from_body(cast("JsonObject", event.data))
                    await self._viewing.text(answer.text)
                elif event.name == "abort":
                    raise FlowAborted("The flow was aborted at the server.")
                else:
                    answer.add(event)
                    await self._viewing.event(event)
        return answer

    async def _abort(self, chat_id: str) -> None:
        try:
            await self._client.abort(self._question.flow_id, chat_id)
        except AppError as error:
            log.warning("flowise.abort_failed step_no=%d code=%s", self._step.step_no, error.code)
        else:
            # An agentflow stops at its node or the next; a chatflow goes on to its end, and nobody will read it.
            log.info("flowise.aborted step_no=%d chatflows_go_on=true", self._step.step_no)

    # -- what became of an earlier try ------------------------------------------------------------------------------

    async def _recovered(self, *, broke: bool) -> Answer | None:
        """The answer of an earlier try, waited for while the server is at work; None when there will be none."""
        patience = self._patience.after_break_seconds if broke else self._patience.after_crash_seconds
        loop = asyncio.get_running_loop()
        until = loop.time() + patience
        looks = 0
        while True:
            try:
                found = await self._stored()
                state = None if found is not None else await self._state()
            except (FlowiseKeyRefused, FlowUnknown):
                # Without the permission to look nobody can know; to ask again may cost twice, to fail loses the run.
                log.warning("flowise.cannot_look step_no=%d", self._step.step_no)
                return None
            if found is not None or state in _DEAD:
                return found
            asks_still = state == "STOPPED" and self._question.resume is not None
            if state != _AT_WORK and (asks_still or loop.time() >= until):
                return None
            await self._patience.sleep(_PAUSES[min(looks, len(_PAUSES) - 1)])
            looks += 1

    async def _stored(self) -> Answer | None:
        question = self._question
        if question.resume is not None:
            known = frozenset([question.resume.message_id] if question.resume.message_id else [])
            ids = frozenset([question.resume.chat_id])
        else:
            known = frozenset[str]()
            ids = frozenset(
                chat_id_of(self._step, attempt, number)
                for attempt in range(1, self._step.attempt + 1)
                for number in range(1, TRIES + 1)
            )
        return await self._client.find_answer(
            question.flow_id, session_id=question.session_id, chat_ids=ids, known=known
        )

    async def _state(self) -> str | None:
        """What the newest execution is doing; in a session that others use too it may be theirs."""
        if not self._question.own_session:
            return None
        executions = await self._client.executions(self._question.flow_id, session_id=self._question.session_id)
        return executions[0].state if executions else None

    async def _execution_of(self, chat_id: str) -> str | None:
        """A stream does not say which execution it was; the stored message does."""
        try:
            stored = await self._client.find_answer(
                self._question.flow_id, session_id=self._question.session_id, chat_ids=frozenset([chat_id])
            )
        except AppError as error:  # the answer is there: this is a number for people who look at the server
            log.info("flowise.execution_unknown step_no=%d code=%s", self._step.step_no, error.code)
            return None
        return None if stored is None else stored.execution_id
