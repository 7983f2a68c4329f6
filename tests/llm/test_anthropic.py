"""What is Anthropic's own: thoughts, the two generations of models, schemas, the cache."""

from __future__ import annotations

import pytest

from shared.errors import UpstreamRefused
from shared.llm.anthropic import AnthropicModel
from shared.llm.model import JsonSchema, Message, Opaque, Text, ToolChoice, ToolResult, ToolSpec
from tests.llm.conftest import KEY, ask
from tests.support.model_server import ModelServer, Reply

LOOK = ToolSpec("look", "Look it up.", {"type": "object", "properties": {}})
PLAN = JsonSchema("plan", {"type": "object", "properties": {"steps": {"type": "array", "maxItems": 3}}})


def older(server: ModelServer, model: str = "claude-haiku-4-5") -> AnthropicModel:
    return AnthropicModel(model, api_key=KEY, base_url=server.url)


async def test_signed_thoughts_go_back_word_for_word(claude: AnthropicModel, server: ModelServer) -> None:
    server.script(Reply.tool("look", {}, id="toolu_1").but(thinking="Where is it?"), Reply.text("There."))
    first = await claude.respond(ask(tools=(LOOK,)))

    await claude.respond(
        ask(messages=(Message.user("?"), first.message, Message.tool(ToolResult("toolu_1", "x"))), tools=(LOOK,))
    )

    assert server.requests[1].body["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "Where is it?", "signature": "c2lnbmVk"},
        {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}},
    ]


async def test_thoughts_of_another_model_stay_behind(claude: AnthropicModel, server: ModelServer) -> None:
    server.script(Reply.text("Yes."))
    foreign = Message("assistant", (Opaque("anthropic:claude-opus-5-5", {"type": "thinking"}),))

    await claude.respond(ask(messages=(Message.user("a"), foreign, Message.user("b"))))

    assert [message["role"] for message in server.requests[0].body["messages"]] == ["user", "user"]


async def test_a_conversation_outlives_a_damaged_thought(claude: AnthropicModel, server: ModelServer) -> None:
    complaint = "messages.1.content.0: `thinking` blocks cannot be modified."
    server.script(Reply.error(400, message=complaint), Reply.text("Anyway."))
    thought = Opaque(claude.name, {"type": "thinking", "thinking": "[redacted]", "signature": "c2lnbmVk"})
    history = (Message.user("a"), Message("assistant", (thought, Text("So."))), Message.user("b"))

    response = await claude.respond(ask(messages=history))

    assert response.text == "Anyway."
    assert server.requests[1].body["messages"][1]["content"] == [{"type": "text", "text": "So."}]


async def test_another_refusal_is_not_taken_for_a_damaged_thought(claude: AnthropicModel, server: ModelServer) -> None:
    server.script(Reply.error(400, message="max_tokens is too large"))
    thought = Opaque(claude.name, {"type": "thinking", "thinking": "Hm.", "signature": "c2lnbmVk"})

    with pytest.raises(UpstreamRefused):
        await claude.respond(ask(messages=(Message("assistant", (thought,)), Message.user("b"))))

    assert len(server.requests) == 1


async def test_thoughts_are_not_shown_to_a_reader(claude: AnthropicModel, server: ModelServer) -> None:
    server.script(Reply.text("Yes.").but(thinking="Hm."))
    shown: list[str] = []

    async def reader(text: str) -> None:
        shown.append(text)

    response = await claude.respond(ask(), on_text=reader)

    assert "".join(shown) == response.text == "Yes."


async def test_a_schema_is_sent_as_the_output_format(claude: AnthropicModel, server: ModelServer) -> None:
    server.script(Reply.json({"steps": []}))

    await claude.respond(ask(json_schema=PLAN))

    sent = server.requests[0].body["output_config"]["format"]
    assert sent["type"] == "json_schema"
    assert sent["schema"]["additionalProperties"] is False
    assert "maxItems" not in sent["schema"]["properties"]["steps"]


async def test_a_server_without_output_formats_answers_by_a_tool(server: ModelServer) -> None:
    server.script(Reply.tool("plan", {"steps": ["one"]}))
    shown: list[str] = []

    async def reader(text: str) -> None:
        shown.append(text)

    model = older(server, "some-other-model")
    response = await model.respond(ask(json_schema=PLAN), on_text=reader)
    await model.aclose()

    assert server.requests[0].body["tool_choice"] == {"type": "tool", "name": "plan"}
    assert response.json == {"steps": ["one"]}
    assert response.tool_calls == ()
    assert response.stop_reason == "end"
    assert "".join(shown) == response.text


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        (ToolChoice(), {"type": "auto"}),
        (ToolChoice("none"), {"type": "none"}),
        (ToolChoice("required"), {"type": "any"}),
        (ToolChoice.only("look"), {"type": "tool", "name": "look"}),
    ],
)
async def test_an_older_model_is_forced(server: ModelServer, choice: ToolChoice, sent: dict[str, str]) -> None:
    server.script(Reply.tool("look", {}))

    model = older(server)
    await model.respond(ask(tools=(LOOK,), tool_choice=choice, temperature=0.2))
    await model.aclose()

    assert server.requests[0].body["tool_choice"] == sent
    assert server.requests[0].body["temperature"] == 0.2


async def test_a_newer_model_is_asked_instead_of_forced(claude: AnthropicModel, server: ModelServer) -> None:
    server.script(Reply.tool("look", {}))

    await claude.respond(ask(tools=(LOOK,), tool_choice=ToolChoice.only("look"), temperature=0.2))

    body = server.requests[0].body
    assert body["tool_choice"] == {"type": "auto"}
    assert "the tool look" in body["system"]
    assert "temperature" not in body


async def test_only_a_conversation_with_tools_is_cached(claude: AnthropicModel, server: ModelServer) -> None:
    server.script(Reply.text("a"), Reply.text("b"))

    await claude.respond(ask())
    await claude.respond(ask(tools=(LOOK,)))

    assert "cache_control" not in server.requests[0].body
    assert server.requests[1].body["cache_control"] == {"type": "ephemeral"}


async def test_a_failed_tool_is_marked_as_failed(claude: AnthropicModel, server: ModelServer) -> None:
    server.script(Reply.text("Oh."))
    failed = Message.tool(ToolResult("toolu_1", "no such file", is_error=True))

    await claude.respond(ask(messages=(Message.user("?"), failed)))

    assert server.requests[0].body["messages"][1] == {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "no such file", "is_error": True}],
    }
