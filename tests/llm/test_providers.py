"""What holds for both providers, through both official SDKs over real HTTP."""

from __future__ import annotations

import asyncio
import traceback

import pytest

from shared.errors import AppError, UpstreamBusy, UpstreamRefused, UpstreamTimeout
from shared.llm.anthropic import AnthropicModel
from shared.llm.model import JsonSchema, Message, Model, Text, ToolCall, ToolResult, ToolSpec, Usage
from shared.llm.retry import RetryPolicy
from tests.llm.conftest import KEY, Naps, ask
from tests.support.model_server import ModelServer, Reply

WEATHER = ToolSpec(
    "weather", "The weather at a place.", {"type": "object", "properties": {"place": {"type": "string"}}}
)
PLAN = JsonSchema(
    "plan",
    {
        "type": "object",
        "properties": {"steps": {"type": "array"}},
        "required": ["steps"],
        "additionalProperties": False,
    },
)


class Reader:
    """Takes the words as they come."""

    def __init__(self) -> None:
        self.words: list[str] = []

    async def __call__(self, text: str) -> None:
        self.words.append(text)


async def test_text_is_shown_as_it_comes_and_answered_whole(model: Model, server: ModelServer) -> None:
    server.script(Reply.text("Hello, you."))
    reader = Reader()

    response = await model.respond(ask(), on_text=reader)

    assert response.text == "Hello, you."
    assert reader.words == ["Hello,", " you."]
    assert response.stop_reason == "end"
    assert response.model == model.name


async def test_usage_counts_cached_tokens_apart(model: Model, server: ModelServer) -> None:
    server.script(Reply.text("Hi").but(input_tokens=70, output_tokens=5, cache_read_tokens=20, cache_write_tokens=10))

    response = await model.respond(ask())

    assert response.usage == Usage(70, 5, 20, 10)


async def test_a_tool_call_is_put_together_from_its_pieces(model: Model, server: ModelServer) -> None:
    server.script(Reply.tool("weather", {"place": "Köln"}, text="I look.", id="call_1"))

    response = await model.respond(ask(tools=(WEATHER,)))

    assert response.stop_reason == "tool_calls"
    assert response.text == "I look."
    assert [(call.id, call.name, call.arguments) for call in response.tool_calls] == [
        ("call_1", "weather", {"place": "Köln"})
    ]


async def test_a_tool_call_without_arguments_has_none_of_them(model: Model, server: ModelServer) -> None:
    server.script(Reply.bad_tool("weather", ""))

    response = await model.respond(ask(tools=(WEATHER,)))

    assert response.tool_calls[0].arguments == {}


@pytest.mark.parametrize("raw", ['{"place": "Kö', "[1, 2]", "null", "the weather please", '{"n": NaN}'])
async def test_wrong_arguments_are_kept_as_written(model: Model, server: ModelServer, raw: str) -> None:
    server.script(Reply.bad_tool("weather", raw))

    response = await model.respond(ask(tools=(WEATHER,)))

    assert response.tool_calls[0].arguments is None
    assert response.tool_calls[0].raw_arguments == raw


async def test_an_empty_answer_is_an_answer(model: Model, server: ModelServer) -> None:
    server.script(Reply.empty())

    response = await model.respond(ask())

    assert (response.text, response.tool_calls, response.stop_reason) == ("", (), "end")


@pytest.mark.parametrize("stop", ["max_tokens", "refusal"])
async def test_the_stop_reason_is_told(model: Model, server: ModelServer, stop: str) -> None:
    server.script(Reply.text("I").but(stop=stop))

    response = await model.respond(ask())

    assert response.stop_reason == stop


async def test_a_schema_is_answered_with_json(model: Model, server: ModelServer) -> None:
    server.script(Reply.json({"steps": ["write", "run"]}))

    response = await model.respond(ask(json_schema=PLAN))

    assert response.json == {"steps": ["write", "run"]}


async def test_the_conversation_survives_the_way_to_the_database_and_back(model: Model, server: ModelServer) -> None:
    server.script(Reply.tool("weather", {"place": "Köln"}).but(thinking="Rain?"), Reply.text("It rains."))
    first = await model.respond(ask(tools=(WEATHER,)))
    stored = Message.from_json(first.message.to_json())
    result = Message.tool(ToolResult(first.tool_calls[0].id, "rain"))

    second = await model.respond(ask(messages=(Message.user("Weather?"), stored, result), tools=(WEATHER,)))

    assert stored == first.message
    assert second.text == "It rains."


async def test_an_empty_answer_and_wrong_arguments_can_be_sent_back(model: Model, server: ModelServer) -> None:
    server.script(Reply.text("Sorry."))
    history = (
        Message.user("Weather?"),
        Message("assistant", ()),
        Message("assistant", (Text(""), ToolCall.parse("call_1", "weather", '{"pla'))),
        Message.tool(ToolResult("call_1", "The arguments are not a JSON object.", is_error=True)),
    )

    response = await model.respond(ask(messages=history, tools=(WEATHER,)))

    assert response.text == "Sorry."


async def test_the_idempotency_key_goes_out_as_a_header(model: Model, server: ModelServer) -> None:
    server.script(Reply.text("Hi"))

    await model.respond(ask(idempotency_key="step-7"))

    assert server.requests[0].headers["idempotency-key"] == "step-7"


@pytest.mark.parametrize("status", [429, 500, 502, 503, 529])
async def test_trouble_that_passes_is_repeated(model: Model, server: ModelServer, naps: Naps, status: int) -> None:
    server.script(Reply.error(status), Reply.error(status), Reply.text("At last."))

    response = await model.respond(ask())

    assert response.text == "At last."
    assert len(server.requests) == 3
    assert len(naps.seconds) == 2
    assert all(0 <= seconds <= 30 for seconds in naps.seconds)


async def test_the_wait_that_the_server_asks_for_is_kept(model: Model, server: ModelServer, naps: Naps) -> None:
    server.script(Reply.error(429, retry_after=7), Reply.text("Now."))

    await model.respond(ask())

    assert 7 <= naps.seconds[0] <= 8


async def test_a_wait_too_long_is_left_to_the_run(model: Model, server: ModelServer, naps: Naps) -> None:
    server.script(Reply.error(429, retry_after=600))

    with pytest.raises(UpstreamBusy) as caught:
        await model.respond(ask())

    assert caught.value.retry_after_seconds == 600
    assert caught.value.retryable
    assert naps.seconds == []


async def test_the_attempts_are_counted(model: Model, server: ModelServer) -> None:
    server.otherwise = Reply.error(503)

    with pytest.raises(UpstreamBusy, match="503"):
        await model.respond(ask())

    assert len(server.requests) == 4


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
async def test_a_refusal_is_final(model: Model, server: ModelServer, status: int) -> None:
    server.script(Reply.error(status))

    with pytest.raises(UpstreamRefused, match=str(status)) as caught:
        await model.respond(ask())

    assert not caught.value.retryable
    assert len(server.requests) == 1


async def test_an_empty_account_is_final_though_its_status_is_429(model: Model, server: ModelServer) -> None:
    server.script(Reply.error(429, kind="insufficient_quota"))

    with pytest.raises(UpstreamRefused, match="no credit left"):
        await model.respond(ask())


@pytest.mark.parametrize("reply", [Reply.reset(), Reply.cut_short(), Reply.error_in_stream("half an answ")])
async def test_a_broken_answer_is_asked_for_again(model: Model, server: ModelServer, reply: Reply) -> None:
    server.script(reply, Reply.text("Whole."))

    response = await model.respond(ask())

    assert response.text == "Whole."


@pytest.mark.parametrize("reply", [Reply.reset(), Reply.cut_short(), Reply.error_in_stream("half an answ")])
async def test_nothing_is_asked_again_once_somebody_reads(model: Model, server: ModelServer, reply: Reply) -> None:
    server.script(reply, Reply.text("Whole."))
    reader = Reader()

    with pytest.raises(UpstreamBusy):
        await model.respond(ask(), on_text=reader)

    assert reader.words == ["half a"]
    assert len(server.requests) == 1


async def test_a_failure_before_the_first_word_is_repeated_for_a_reader_too(model: Model, server: ModelServer) -> None:
    server.script(Reply.error(529), Reply.text("Hello, you."))
    reader = Reader()

    await model.respond(ask(), on_text=reader)

    assert "".join(reader.words) == "Hello, you."


@pytest.mark.parametrize(
    "body", [b"", b"<html>gateway</html>", b"data: {broken\n\n", b'event: message_start\ndata: ["x"]\n\n', b"\xff\xfe"]
)
async def test_an_answer_of_no_protocol_is_an_error_of_ours(model: Model, server: ModelServer, body: bytes) -> None:
    server.otherwise = Reply.raw(body)

    with pytest.raises(UpstreamBusy):
        await model.respond(ask())


async def test_a_dead_server_is_told_from_a_slow_one(naps: Naps) -> None:
    with ModelServer() as dead:
        url = dead.url
    model = AnthropicModel("claude-sonnet-5-5", api_key=KEY, base_url=url, policy=RetryPolicy(sleep=naps))

    with pytest.raises(UpstreamBusy, match="cannot be reached"):
        await model.respond(ask())

    await model.aclose()


@pytest.mark.parametrize("reply", [Reply.hang(), Reply.hang("half an answ")])
async def test_a_model_that_never_ends_is_given_up(model: Model, server: ModelServer, reply: Reply) -> None:
    server.script(reply)

    with pytest.raises(UpstreamTimeout, match=r"within 0\.5 seconds"):
        await model.respond(ask(timeout_seconds=0.5))

    await server.until(lambda: server.requests[0].gone)


@pytest.mark.parametrize("reply", [Reply.hang(), Reply.hang("half an answ")])
async def test_cancelling_closes_the_request(model: Model, server: ModelServer, reply: Reply) -> None:
    server.script(reply)
    call = asyncio.create_task(model.respond(ask()))
    await server.until(lambda: len(server.requests) == 1)

    call.cancel()

    with pytest.raises(asyncio.CancelledError):
        await call
    await server.until(lambda: server.requests[0].gone)


async def test_a_timeout_of_the_reader_is_not_taken_for_the_models(model: Model, server: ModelServer) -> None:
    server.script(Reply.text("Hello"))

    async def broken_reader(_: str) -> None:
        raise TimeoutError("the reader's own")

    with pytest.raises(TimeoutError, match="the reader's own"):
        await model.respond(ask(), on_text=broken_reader)


async def test_a_reader_that_fails_closes_the_request(model: Model, server: ModelServer) -> None:
    server.script(Reply.hang("half an answ"))

    async def broken_reader(_: str) -> None:
        raise RuntimeError("the reader's own")

    with pytest.raises(RuntimeError, match="the reader's own"):
        await model.respond(ask(), on_text=broken_reader)

    await server.until(lambda: server.requests[0].gone)


@pytest.mark.parametrize("status", [400, 401, 429, 500])
async def test_the_key_is_in_no_error(model: Model, server: ModelServer, status: int) -> None:
    server.otherwise = Reply.error(status, message=f"Incorrect API key provided: {KEY}, or sk-proj-****wxyz12.")

    with pytest.raises(AppError) as caught:
        await model.respond(ask())

    shown = "".join(traceback.format_exception(caught.value)) + str(caught.value.to_body()) + repr(caught.value)
    assert KEY not in shown
    assert "wxyz12" not in shown
    assert "[key]" in str(caught.value.details)


async def test_a_redirect_takes_the_key_nowhere(model: Model, server: ModelServer) -> None:
    with ModelServer() as elsewhere:
        server.otherwise = Reply.raw(b"", status=307).but(headers={"location": f"{elsewhere.url}/v1/messages"})

        with pytest.raises(AppError):
            await model.respond(ask())

        assert elsewhere.requests == []


async def test_a_model_serves_calls_at_once_and_again_after_closing(model: Model, server: ModelServer) -> None:
    server.otherwise = lambda request: Reply.text(str(request.body["messages"][-1]["content"]))

    responses = await asyncio.gather(*(model.respond(ask(f"number {n}")) for n in range(8)))
    await model.aclose()
    later = await model.respond(ask("later"))

    assert all(f"number {n}" in response.text for n, response in enumerate(responses))
    assert "later" in later.text
