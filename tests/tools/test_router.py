from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from shared.runs.models import Effect, NewArtifact
from shared.tools.builtin import builtin_router
from shared.tools.router import CONTENT_BYTES, OUTPUT_BYTES, Problem, ToolRouter, Validated
from shared.tools.text import clean, head, size_of, tail
from shared.tools.tool import ToolContext, ToolFailed, ToolInput, ToolResult, ToolRetry
from tests.tools.support import context


class EchoInput(ToolInput):
    text: str
    title: str = "none"
    times: int = Field(default=1, ge=1, le=3)


async def echo(arguments: EchoInput) -> ToolResult:
    return ToolResult(arguments.text * arguments.times, {"text": arguments.text}, credits=5, message="echoed")


class EchoTool:
    """A tool whose work is given by the test."""

    name = "echo"
    description = "Say it again."
    input_model = EchoInput
    timeout_seconds = 5.0
    credits_bound = 10

    def __init__(
        self,
        work: Callable[[EchoInput], Awaitable[ToolResult]] = echo,
        *,
        effect: Effect = "pure",
        timeout_seconds: float = 5.0,
    ) -> None:
        self._work = work
        self.effect: Effect = effect
        self.timeout_seconds = timeout_seconds

    async def call(self, arguments: EchoInput, ctx: ToolContext) -> ToolResult:
        return await self._work(arguments)


def returning(result: ToolResult) -> EchoTool:
    async def work(arguments: EchoInput) -> ToolResult:
        return result

    return EchoTool(work)


def raising(error: Exception) -> EchoTool:
    async def work(arguments: EchoInput) -> ToolResult:
        raise error

    return EchoTool(work)


async def call(tool: EchoTool) -> ToolResult:
    return await ToolRouter([tool]).call("echo", {"text": "a"}, context())


async def test_a_call_reaches_its_tool_and_its_result_comes_back() -> None:
    result = await ToolRouter([EchoTool()]).call("echo", {"text": "ab", "times": 2}, context())

    assert result == ToolResult("abab", {"text": "ab"}, credits=5, message="echoed")


async def test_arguments_may_be_the_text_of_an_object() -> None:
    result = await ToolRouter([EchoTool()]).call("echo", '{"text": "ab"}', context())

    assert result.content == "ab"


def test_a_spec_is_the_schema_of_the_input_without_made_up_titles() -> None:
    (spec,) = ToolRouter([EchoTool()]).specs()

    assert (spec.name, spec.description) == ("echo", "Say it again.")
    assert spec.input_schema == {
        "type": "object",
        "additionalProperties": False,
        "required": ["text"],
        "properties": {
            "text": {"type": "string"},
            "title": {"type": "string", "default": "none"},
            "times": {"type": "integer", "default": 1, "minimum": 1, "maximum": 3},
        },
    }


def test_specs_can_be_limited_to_some_tools() -> None:
    router = builtin_router()

    assert [spec.name for spec in router.specs(["code"])] == ["code"]
    assert router.names == ("message", "code", "write_file")
    with pytest.raises(KeyError):
        router.specs(["shell"])


async def test_an_unknown_tool_is_told_with_the_names_there_are() -> None:
    result = await builtin_router().call("shell\x00", {"command": "ls"}, context())

    assert result.is_error
    assert result.content == "There is no tool `shell`. The tools are: message, code, write_file."
    assert result.credits == 0


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (None, "not a JSON object"),
        ("{", "not a JSON object"),
        ("[1]", "not a JSON object"),
        ("", "`text`: Field required"),
        ({}, "`text`: Field required"),
        ({"text": 1}, "`text`: Input should be a valid string"),
        ({"text": "a", "times": 4}, "`times`: Input should be less than or equal to 3"),
        ({"text": "a", "account_id": "x"}, "`account_id` is not a known field"),
    ],
)
async def test_wrong_arguments_are_told_by_field(raw: dict[str, object] | str | None, told: str) -> None:
    router = ToolRouter([EchoTool()])

    result = await router.call("echo", raw, context())

    assert result.is_error
    assert told in result.content
    assert "Its fields are: text (required), title, times." in result.content
    assert router.validate("echo", raw) == Problem(result.content)


def test_validating_makes_no_call() -> None:
    tool = raising(AssertionError("called"))

    checked = ToolRouter([tool]).validate("echo", {"text": "a"})

    assert checked == Validated(tool, EchoInput(text="a"))


async def test_a_retry_is_a_result_for_the_model() -> None:
    result = await call(raising(ToolRetry("Ask for another one.")))

    assert (result.is_error, result.content) == (True, "Ask for another one.")


async def test_a_failed_tool_is_no_result() -> None:
    with pytest.raises(ToolFailed) as raised:
        await call(raising(ToolFailed("The service is down.", code="service_down", retryable=True)))

    assert (raised.value.code, raised.value.retryable, str(raised.value)) == (
        "service_down",
        True,
        "The service is down.",
    )


@pytest.mark.parametrize(("effect", "retryable"), [("pure", True), ("idempotent", True), ("effectful", False)])
async def test_a_tool_that_does_not_answer_is_cancelled(effect: Effect, *, retryable: bool) -> None:
    ended = asyncio.Event()

    async def never(arguments: EchoInput) -> ToolResult:
        try:
            return await asyncio.Future[ToolResult]()
        finally:
            ended.set()

    with pytest.raises(ToolFailed) as raised:
        await call(EchoTool(never, effect=effect, timeout_seconds=0.01))

    assert ended.is_set()
    assert (raised.value.code, raised.value.retryable) == ("tool_timeout", retryable)


async def test_a_timeout_inside_a_tool_is_not_taken_for_ours() -> None:
    with pytest.raises(TimeoutError):
        await call(raising(TimeoutError()))


async def test_long_content_is_cut_with_a_mark() -> None:
    result = await call(returning(ToolResult("é" * 20_000)))

    assert size_of(result.content) <= CONTENT_BYTES
    assert result.content.endswith("é\n[truncated: 40000 bytes in all]")


async def test_output_that_cannot_be_stored_is_replaced_and_paid_for() -> None:
    result = await call(returning(ToolResult("done", {"data": "x" * OUTPUT_BYTES}, credits=3)))

    assert result.is_error
    assert "its output is over 262144 bytes" in result.content
    assert (result.credits, result.artifacts) == (3, ())


@pytest.mark.parametrize(
    ("artifact", "told"),
    [
        (NewArtifact(name="big.txt", content="é" * 32_769), "has 65538 bytes, and 65536 is the most"),
        (NewArtifact(name="../up.txt", content=""), "its name must not contain empty, '.' or '..' segments"),
    ],
)
async def test_an_artifact_that_cannot_be_stored_is_told(artifact: NewArtifact, told: str) -> None:
    result = await call(returning(ToolResult("done", artifacts=(artifact,))))

    assert result.is_error
    assert told in result.content
    assert result.artifacts == ()


async def test_nothing_that_the_database_refuses_gets_through() -> None:
    artifact = NewArtifact(name="a", content="a\x00\ud800")
    result = ToolResult("c\x00\udfff", {"k\x00": ["v\x00", {"n": "\ud83d"}, 1, None]}, (artifact,), message="m\x00")

    bounded = await call(returning(result))

    assert bounded == ToolResult(
        "c\ufffd",
        {"k": ["v", {"n": "\ufffd"}, 1, None]},
        (NewArtifact(name="a", content="a\ufffd"),),
        message="m",
    )


@pytest.mark.parametrize("names", [["Echo"], [""], ["a b"], ["echo", "echo"]])
def test_tools_need_plain_and_different_names(names: list[str]) -> None:
    def named(name: str) -> EchoTool:
        tool = EchoTool()
        tool.name = name
        return tool

    with pytest.raises(ValueError, match="tool"):
        ToolRouter([named(name) for name in names])


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=50))
def test_clean_text_always_encodes_and_good_text_stays(text: str) -> None:
    assert "\x00" not in clean(text)
    assert clean(text).encode().decode() == text.replace("\x00", "")


@given(st.text(alphabet=st.sampled_from("aé\ud800\udc00日😀\x00"), max_size=200), st.integers(50, 100))
def test_cut_text_keeps_its_bound_and_its_marked_end(text: str, bound: int) -> None:
    text = clean(text)

    assert size_of(head(text, max_bytes=bound)) <= bound
    assert size_of(tail(text, max_bytes=bound)) <= bound
    assert (head(text, max_bytes=bound) == text) == (size_of(text) <= bound)
