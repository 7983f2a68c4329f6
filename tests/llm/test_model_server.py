"""The tests' own server, read by the official SDKs without a stream."""

from __future__ import annotations

import anthropic
import openai
import pytest

from tests.llm.conftest import KEY
from tests.support.model_server import ModelServer, Received, Reply


async def test_anthropics_sdk_reads_a_whole_answer(server: ModelServer) -> None:
    server.script(Reply.tool("look", {"n": 1}, text="I look."))

    async with anthropic.AsyncAnthropic(api_key=KEY, base_url=server.url, max_retries=0) as client:
        message = await client.messages.create(
            model="m", max_tokens=9, messages=[{"role": "user", "content": "Hi"}], tools=[]
        )

    assert [block.type for block in message.content] == ["text", "tool_use"]
    assert message.content[1].input == {"n": 1}
    assert message.usage.output_tokens == 20


async def test_openais_sdk_reads_a_whole_answer(server: ModelServer) -> None:
    server.script(Reply.tool("look", {"n": 1}, text="I look."))

    async with openai.AsyncOpenAI(api_key=KEY, base_url=server.openai_url, max_retries=0) as client:
        completion = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])

    message = completion.choices[0].message
    assert message.content == "I look."
    assert message.tool_calls[0].function.arguments == '{"n": 1}'
    assert completion.usage.completion_tokens == 20


async def test_a_hanging_reply_goes_on_when_released(server: ModelServer) -> None:
    def release(_: Received) -> Reply:
        server.release()
        return Reply.hang("Hello").but(hangs="before")

    server.script(release)

    async with openai.AsyncOpenAI(api_key=KEY, base_url=server.openai_url, max_retries=0) as client:
        completion = await client.chat.completions.create(model="m", messages=[])

    assert completion.choices[0].message.content == "Hello"


async def test_a_script_that_is_over_says_so(server: ModelServer) -> None:
    async with anthropic.AsyncAnthropic(api_key=KEY, base_url=server.url, max_retries=0) as client:
        with pytest.raises(anthropic.BadRequestError, match="The script is over"):
            await client.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": "Hi"}])
