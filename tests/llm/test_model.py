"""Messages as a public format."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import InvalidInput
from shared.llm.model import Message, ModelResponse, Opaque, Text, ToolCall, ToolResult, Usage

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
OBJECT = st.dictionaries(st.text(), JSON, max_size=3)
BLOCK = st.one_of(
    st.builds(Text, st.text()),
    st.builds(ToolCall, st.text(), st.text(), st.none() | OBJECT, st.text(), st.none() | OBJECT),
    st.builds(ToolResult, st.text(), st.text(), st.booleans()),
    st.builds(Opaque, st.text(), OBJECT),
)
MESSAGE = st.builds(Message, st.sampled_from(["user", "assistant", "tool"]), st.lists(BLOCK, max_size=4).map(tuple))
USAGE = st.builds(Usage, *[st.integers(0, 10**9)] * 4, st.booleans())


@given(MESSAGE)
def test_a_message_comes_back_from_json_as_it_was(message: Message) -> None:
    assert Message.from_json(json.loads(json.dumps(message.to_json()))) == message


@given(MESSAGE, USAGE, st.sampled_from(["end", "tool_calls", "max_tokens", "refusal", "other"]))
def test_a_response_comes_back_from_json_as_it_was(message: Message, usage: Usage, stop: str) -> None:
    response = ModelResponse(message.blocks, stop, usage, "p:m")

    assert ModelResponse.from_json(json.loads(json.dumps(response.to_json()))) == response


@given(st.text())
def test_arguments_are_an_object_or_none(raw: str) -> None:
    call = ToolCall.parse("id", "name", raw)

    assert call.arguments is None or isinstance(call.arguments, dict)
    assert call.raw_arguments == raw


def test_the_stored_form_is_this() -> None:
    message = Message("assistant", (Text("Hi"), ToolCall.parse("c1", "look", '{"a": 1}')))

    assert message.to_json() == {
        "role": "assistant",
        "blocks": [
            {"type": "text", "text": "Hi"},
            {"type": "tool_call", "id": "c1", "name": "look", "arguments": {"a": 1}, "raw_arguments": '{"a": 1}'},
        ],
    }


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"blocks": []}, "role"),
        ({"role": "system", "blocks": []}, "system"),
        ({"role": "user"}, "blocks"),
        ({"role": "user", "blocks": ["x"]}, "block"),
        ({"role": "user", "blocks": [{"type": "image"}]}, "image"),
        ({"role": "user", "blocks": [{"type": "text"}]}, "text"),
    ],
)
def test_what_is_no_message_is_refused_by_name(data: dict[str, object], named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        Message.from_json(data)


@pytest.mark.parametrize("text", ["", "[1]", "no", '{"a": NaN}', "```json\nno\n```"])
def test_an_answer_that_is_no_object_has_no_json(text: str) -> None:
    assert ModelResponse((Text(text),), "end", Usage(), "p:m").json is None
