"""Which schemas an agent may have, what they say of an input, and that neither costs much, whatever they say."""

from __future__ import annotations

from typing import Any

import pytest

from shared.agents.forms import form_of, with_order
from shared.agents.inputs import problems_with_input
from shared.agents.problems import Problem
from shared.agents.schemas import problems_with_schema
from shared.engines.agent.config import AgentConfig


def of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"items": schema}
    return of(a=schema)


OWN_DEFS = "must refer to one of the schema's own $defs"
NO_KEYWORD = "is not a keyword that an agent's schema may have"
DOUBLING = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)} | {"d40": {}}


@pytest.mark.parametrize(
    ("schema", "field", "message"),
    [
        ({"type": "string"}, "type", "must be object: a run's input is one"),
        (of(a={"$ref": "https://example.com/schema"}), "properties.a.$ref", OWN_DEFS),
        (of(a={"$ref": "#/$defs/b"}), "properties.a.$ref", "refers to nothing"),
        ({**of(), "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}}, "$defs.a.items.$ref", "leads in a circle"),
        ({**of(a={"$ref": "#/$defs/d0"}), "$defs": DOUBLING}, "$defs", "unfold to more than 5000 parts"),
        (of(a={"patternProperties": {}}), "properties.a.patternProperties", NO_KEYWORD),
        (of(a={"$dynamicRef": "#"}), "properties.a.$dynamicRef", NO_KEYWORD),
        (of(a={"$id": "http://a"}), "properties.a.$id", NO_KEYWORD),
        (of(a={"pattern": "(?=a)"}), "properties.a.pattern", "must be an RE2 expression of at most 500 characters"),
        (of(a={"pattern": "a" * 501}), "properties.a.pattern", "must be an RE2 expression of at most 500 characters"),
        (of(a={"minLength": "x"}), "properties.a.minLength", "is no valid minLength"),
        (of(**{f"p{n}": {} for n in range(501)}), "", "has more than 500 parts"),
        (of(a={"description": "x" * 33_000}), "", "must be at most 32768 bytes"),
        (deep(500), "", "is nested more than 32 deep"),
    ],
)  # fmt: skip
def test_a_schema_that_costs_or_says_too_much_is_refused(schema: dict[str, Any], field: str, message: str) -> None:
    assert Problem(field, message) in problems_with_schema(schema)


@pytest.mark.parametrize("format_", ["password", "regex", "iri", 7, ["email"]])
def test_a_format_that_is_not_checked_is_refused(format_: object) -> None:
    (problem,) = problems_with_schema(of(a={"type": "string", "format": format_}))

    assert problem.field == "properties.a.format"


@pytest.mark.parametrize(
    ("format_", "good", "bad"),
    [
        ("email", "ann@example.com", "ann@"),
        ("url", "https://example.com/a?b", "javascript:alert(1)"),
        ("uri", "mailto:ann@example.com", "no uri"),
        ("date", "2026-02-28", "2026-02-30"),
        ("time", "12:30:00Z", "25:00"),
        ("date-time", "2026-02-28T12:30:00+01:00", "2026-02-28T12:30:00"),
        ("uuid", "6f3f2c1e-7c3f-4a57-9b5f-0d5b7d5a9a01", "6f3f2c1e"),
        ("ipv4", "127.0.0.1", "127.0.0.256"),
        ("ipv6", "::1", ":::"),
        ("hostname", "example.com", "-a-.com"),
    ],
)
def test_a_format_is_checked(format_: str, good: str, bad: str) -> None:
    schema = of(a={"type": "string", "format": format_})

    assert problems_with_schema(schema) == []
    assert problems_with_input(schema, {"a": good}) == []
    assert problems_with_input(schema, {"a": bad}) == [Problem("input.a", f"must be a valid {format_}")]


def test_no_message_repeats_what_was_entered() -> None:
    secret = "sk-canary-in-the-wrong-field"
    schema = {**of(a={"type": "integer"}, b={"enum": ["x"]}, c={"pattern": "^z"}), "additionalProperties": False}

    problems = problems_with_input(schema, {"a": secret, "b": secret, "c": secret})

    assert len(problems) == 3
    assert secret not in str(problems)


def test_a_pattern_that_would_take_for_ever_elsewhere_is_linear() -> None:
    schema = of(a={"type": "string", "pattern": "^(a+)+$"})

    assert problems_with_input(schema, {"a": "a" * 50_000 + "!"}) == [Problem("input.a", "must match the pattern")]


def test_an_input_that_takes_too_much_work_is_refused() -> None:
    schema = of(a={"type": "array", "items": {"not": {"anyOf": [{"type": "string"}] * 50}}})

    assert problems_with_input(schema, {"a": [1] * 100_000}) == [Problem("input", "is more than can be checked")]


def test_an_input_nested_deeper_than_can_be_stored_is_refused() -> None:
    value: Any = []
    for _ in range(900):
        value = [value]

    assert problems_with_input(of(), {"a": value}) == [Problem("input", "is nested more than 32 deep")]


def test_one_and_one_point_zero_are_one_number() -> None:
    schema = of(a={"type": "array", "uniqueItems": True, "items": {"type": "integer"}})

    assert problems_with_input(schema, {"a": [1, 1.0]}) == [Problem("input.a", "names something twice")]
    assert problems_with_input(schema, {"a": [1, 2.0]}) == []


def test_references_and_alternatives_are_followed() -> None:
    schema = {**of(a={"$ref": "#/$defs/short"}, b={"anyOf": [{"type": "string"}, {"type": "null"}]}),
              "$defs": {"short": {"type": "string", "maxLength": 2}}}  # fmt: skip

    assert problems_with_schema(schema) == []
    assert problems_with_input(schema, {"a": "abc", "b": 1}) == [
        Problem("input.a", "must have at most 2 characters"),
        Problem("input.b", "fits none of its alternatives"),
    ]


def test_a_form_is_in_the_order_that_its_schema_was_written_in() -> None:
    schema = with_order(of(zebra={"type": "string"}, ape={"type": "array", "items": {"enum": ["x"]}}, cat={}))

    fields = form_of({**schema, "properties": dict(sorted(schema["properties"].items()))})  # type: ignore[union-attr]

    assert [(field.name, field.kind) for field in fields] == [("zebra", "text"), ("ape", "choices"), ("cat", "json")]


def test_a_prompt_has_the_values_in_their_places_and_reads_none_as_a_template() -> None:
    config = AgentConfig(prompt="Write on {{ topic }} for {{reader}}: {{missing}}.", managed=True)

    assert config.task({"topic": "{{reader}}", "reader": ["a"]}) == 'Write on {{reader}} for ["a"]: .'


def test_without_a_prompt_the_task_is_the_input() -> None:
    assert AgentConfig().task({"prompt": " Say hello ", "tone": "warm"}) == "Say hello\ntone: warm"
