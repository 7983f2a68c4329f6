"""What differs from one chat-completions server to another."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from shared.llm.model import JsonSchema, Message, ModelResponse, ToolCall, ToolChoice, ToolResult, ToolSpec
from shared.llm.openai import OpenAIModel
from shared.llm.presets import PRESETS
from tests.llm.conftest import KEY, ask
from tests.support.model_server import ModelServer, Reply

LOOK = ToolSpec("look", "Look it up.", {"type": "object", "properties": {}})
OPEN_PLAN = JsonSchema("plan", {"type": "object", "properties": {"steps": {"type": "array"}}})
CLOSED_PLAN = JsonSchema("plan", {**OPEN_PLAN.schema, "required": ["steps"], "additionalProperties": False})


async def call(server: ModelServer, preset: str, model: str = "some-model", **changes: object) -> ModelResponse:
    asked = OpenAIModel(PRESETS[preset], model, api_key=KEY, base_url=server.openai_url)
    try:
        return await asked.respond(ask(**changes))
    finally:
        await asked.aclose()


def chunks(*deltas: dict[str, Any], finish: str | None = "stop") -> Reply:
    """A stream of exactly these deltas, without usage."""
    choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": finish})
    lines = [f"data: {json.dumps({'id': 'c1', 'model': 'm', 'choices': [choice]})}\n\n" for choice in choices]
    return Reply.raw("".join([*lines, "data: [DONE]\n\n"]).encode())


@pytest.mark.parametrize("preset", sorted(PRESETS))
async def test_every_preset_answers(server: ModelServer, preset: str) -> None:
    server.script(Reply.text("Hello"))

    response = await call(server, preset)

    assert response.text == "Hello"
    assert response.model == f"{preset}:some-model"


async def test_openai_gets_the_new_name_of_the_token_limit(server: ModelServer) -> None:
    server.otherwise = Reply.text("Hello")

    await call(server, "openai", max_output_tokens=77)
    await call(server, "ollama", max_output_tokens=77)

    assert server.requests[0].body["max_completion_tokens"] == 77
    assert "max_tokens" not in server.requests[0].body
    assert server.requests[1].body["max_tokens"] == 77


@pytest.mark.parametrize(("schema", "strict"), [(OPEN_PLAN, False), (CLOSED_PLAN, True)])
async def test_a_schema_is_strict_when_openai_can_hold_it(
    server: ModelServer, schema: JsonSchema, *, strict: bool
) -> None:
    server.script(Reply.json({"steps": []}))

    response = await call(server, "openai", json_schema=schema)

    sent = server.requests[0].body["response_format"]
    assert sent == {"type": "json_schema", "json_schema": {"name": "plan", "schema": schema.schema, "strict": strict}}
    assert response.json == {"steps": []}


async def test_a_server_without_schemas_is_told_in_words(server: ModelServer) -> None:
    server.script(Reply.text('```json\n{"steps": []}\n```'))

    response = await call(server, "deepseek", json_schema=OPEN_PLAN)

    body = server.requests[0].body
    assert body["response_format"] == {"type": "json_object"}
    assert '"steps"' in body["messages"][0]["content"]
    assert response.json == {"steps": []}


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        (ToolChoice(), "auto"),
        (ToolChoice("required"), "required"),
        (ToolChoice.only("look"), {"type": "function", "function": {"name": "look"}}),
    ],
)
async def test_the_tool_choice_is_sent(server: ModelServer, choice: ToolChoice, sent: object) -> None:
    server.script(Reply.tool("look", {}))

    await call(server, "openai", tools=(LOOK,), tool_choice=choice)

    assert server.requests[0].body["tool_choice"] == sent


async def test_calls_with_the_same_index_are_told_apart_by_their_ids(server: ModelServer) -> None:
    def piece(call_id: str, arguments: str) -> dict[str, Any]:
        function = {"name": "look", "arguments": arguments}
        return {"tool_calls": [{"index": 0, "id": call_id, "type": "function", "function": function}]}

    server.script(chunks(piece("a", '{"n": 1}'), piece("b", '{"n": 2}')))

    response = await call(server, "gemini", tools=(LOOK,))

    assert [(one.id, one.arguments) for one in response.tool_calls] == [("a", {"n": 1}), ("b", {"n": 2})]
    assert response.stop_reason == "tool_calls"


async def test_a_character_torn_apart_is_joined_and_half_of_one_replaced(server: ModelServer) -> None:
    server.script(chunks({"content": "\ud83d"}, {"content": "\ude00 \ud83d"}))

    response = await call(server, "vllm")

    assert response.text == "\U0001f600 \ufffd"


async def test_a_call_without_an_id_gets_one(server: ModelServer) -> None:
    server.script(chunks({"tool_calls": [{"index": 0, "function": {"name": "look", "arguments": "{}"}}]}))

    response = await call(server, "llamacpp", tools=(LOOK,))

    assert response.tool_calls[0].id == "c1-0"


async def test_what_a_server_wants_back_goes_back(server: ModelServer) -> None:
    signature = {"google": {"thought_signature": "abc"}}
    function = {"name": "look", "arguments": "{}"}
    piece = {"index": 0, "id": "a", "function": function, "extra_content": signature}
    server.script(chunks({"reasoning_content": "Hm."}, {"tool_calls": [piece]}), Reply.text("Done."))
    first = await call(server, "gemini", tools=(LOOK,))

    history = (Message.user("?"), Message.from_json(first.message.to_json()), Message.tool(ToolResult("a", "x")))
    await call(server, "gemini", messages=history, tools=(LOOK,))

    sent = server.requests[1].body["messages"][2]
    assert sent["reasoning_content"] == "Hm."
    assert sent["tool_calls"][0]["extra_content"] == signature


async def test_wrong_arguments_are_sent_back_as_none_and_a_failure_in_words(server: ModelServer) -> None:
    server.script(Reply.text("Sorry."))
    history = (
        Message.user("?"),
        Message("assistant", (ToolCall.parse("a", "look", '{"n'),)),
        Message.tool(ToolResult("a", "not JSON", is_error=True)),
    )

    await call(server, "vllm", messages=history, tools=(LOOK,))

    _, _, assistant, tool = server.requests[0].body["messages"]
    assert assistant["tool_calls"][0]["function"]["arguments"] == "{}"
    assert tool == {"role": "tool", "tool_call_id": "a", "content": "Error: not JSON"}


async def test_usage_is_estimated_for_a_server_that_reports_none(server: ModelServer) -> None:
    server.script(Reply.text("a" * 30).but(reports_usage=False))

    response = await call(server, "ollama")

    assert response.usage.estimated
    assert response.usage.input_tokens > 0
    assert response.usage.output_tokens == 10


@pytest.mark.parametrize(("model", "sent"), [("gpt-4.1", 0.3), ("o3-mini", None), ("gpt-5.4", None)])
async def test_temperature_is_kept_from_models_that_refuse_it(
    server: ModelServer, model: str, sent: float | None
) -> None:
    server.script(Reply.text("Hello"))

    await call(server, "openai", model, temperature=0.3)

    assert server.requests[0].body.get("temperature") == sent


async def test_openais_organisation_is_told_to_openai_only(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-ours")
    server.otherwise = Reply.text("Hello")

    await call(server, "openai")
    await call(server, "deepseek")

    has: Callable[[int], bool] = lambda n: "openai-organization" in server.requests[n].headers  # noqa: E731
    assert (has(0), has(1)) == (True, False)
