"""Recorded conversations."""

from __future__ import annotations

import pytest

from shared.errors import UpstreamRefused
from shared.llm.model import JsonSchema, Message, Text, ToolResult
from shared.llm.recording import Recording
from shared.llm.scripted import ScriptedModel
from tests.llm.conftest import ask

PLAN = JsonSchema("plan", {"type": "object"})


async def test_the_demo_plans_with_known_tools() -> None:
    demo = ScriptedModel.load("demo")

    response = await demo.respond(ask(demo.prompt, json_schema=PLAN))

    assert demo.prompt == "Write a hello world program in Python"
    assert response.json is not None
    assert isinstance(response.json["phases"], list)
    assert response.usage.input_tokens > 0


async def test_a_reply_is_chosen_by_the_turn_and_not_by_the_words() -> None:
    model = ScriptedModel(Recording.from_json("two", {"turns": [{"text": "first"}, {"text": "second"}]}))
    history = (Message.user("a"), Message("assistant", (Text("x"),)), Message.tool(ToolResult("c", "r")))

    first = await model.respond(ask("anything"))
    second = await model.respond(ask(messages=history))
    again = await model.respond(ask("something else"))

    assert (first.text, second.text, again) == ("first", "second", first)


async def test_the_words_are_shown_as_they_come() -> None:
    model = ScriptedModel(Recording.from_json("one", {"turns": [{"text": "  Hello, \n you. "}]}))
    shown: list[str] = []

    async def reader(text: str) -> None:
        shown.append(text)

    await model.respond(ask(), on_text=reader)

    assert len(shown) == 2
    assert "".join(shown) == "  Hello, \n you. "


async def test_calls_get_ids_that_differ_from_turn_to_turn() -> None:
    calls = [{"name": "look"}, {"name": "look", "raw_arguments": "{bad"}]
    model = ScriptedModel(Recording.from_json("calls", {"turns": [{"tool_calls": calls}, {"tool_calls": calls}]}))

    first = await model.respond(ask())
    second = await model.respond(ask(messages=(Message.user("a"), first.message)))

    assert [call.id for call in first.tool_calls] == ["call_turn_0_0", "call_turn_0_1"]
    assert [call.id for call in second.tool_calls] == ["call_turn_1_0", "call_turn_1_1"]
    assert first.tool_calls[1].arguments is None
    assert first.stop_reason == "tool_calls"


async def test_what_was_not_recorded_is_refused_clearly() -> None:
    model = ScriptedModel(Recording.from_json("short", {"turns": []}))

    with pytest.raises(UpstreamRefused, match="'short' has no turn 0") as caught:
        await model.respond(ask())

    assert "RUNBASE_LLM" in str(caught.value.hint)
