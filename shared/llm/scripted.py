"""A model that plays a recorded conversation, for the demo and for tests of engines.

A reply is chosen by the turn (how many times the assistant has spoken in this conversation, and whether a JSON
schema is asked for), never by the words, so the same run always gets the same answers on any machine.
"""

from __future__ import annotations

import re

from shared.errors import UpstreamRefused
from shared.llm.model import ModelRequest, ModelResponse, OnText
from shared.llm.recording import Recording, response_from


class ScriptedModel:
    """Plays `recording`; what was not recorded is refused."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording

    @classmethod
    def load(cls, name: str) -> ScriptedModel:
        return cls(Recording.load(name))

    @property
    def name(self) -> str:
        return f"scripted:{self._recording.name}"

    @property
    def prompt(self) -> str:
        """The prompt that the recording was made for."""
        return self._recording.prompt

    async def respond(self, request: ModelRequest, *, on_text: OnText | None = None) -> ModelResponse:
        turn = sum(message.role == "assistant" for message in request.messages)
        kind, replies = ("plan", self._recording.plans) if request.json_schema else ("turn", self._recording.turns)
        if turn >= len(replies):
            raise UpstreamRefused(
                f"The recording {self._recording.name!r} has no {kind} {turn}: it ends after {len(replies)}.",
                hint="A recording answers only the prompt it was made for. Set ANTHROPIC_API_KEY or RUNBASE_LLM.",
            )
        response = response_from(replies[turn], model=self.name, call_prefix=f"call_{kind}_{turn}")
        if on_text is not None:
            for word in re.findall(r"\s*\S+\s*", response.text):
                await on_text(word)
        return response

    async def aclose(self) -> None:
        """Nothing is open."""
