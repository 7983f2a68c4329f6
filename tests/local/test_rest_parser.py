"""The query grammar, without a database."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.rest.errors import ApiError
from local.rest.parameters import parse_parameters
from local.rest.parser import parse_junction, parse_key, parse_operation, parse_order, parse_select
from local.rest.query import (
    Column,
    Comparison,
    Embed,
    Field,
    JsonStep,
    Junction,
    Operation,
    OrderTerm,
    Star,
)


def test_a_select_item_has_alias_json_path_and_cast() -> None:
    assert parse_select("x:data->a->>0::text, b") == (
        Column(Field("data", (JsonStep("a", as_text=False), JsonStep(0, as_text=True))), "text", "x"),
        Column(Field("b")),
    )


def test_line_breaks_fall_between_items_and_blanks_stay_in_names() -> None:
    written = "\n  a b ,\r\n\tc\t,\n d(\n\te )\n"

    assert parse_parameters([("select", written)], is_call=False).select == parse_select("a b ,c,d(e )")


def test_a_name_with_endless_blanks_does_not_hold_everybody_up() -> None:
    name = f"a{' ' * 1_000_000}b"  # in the square of their number this would take hours

    assert parse_parameters([("select", name)], is_call=False).select == (Column(Field(name)),)


def test_an_index_that_no_array_has_is_refused_however_long() -> None:
    for digits in ("9" * 19, "9" * 5000):
        with pytest.raises(ApiError) as refusal:
            parse_select(f"data->{digits}")
        assert (refusal.value.status, refusal.value.code) == (400, "22003")


def test_an_embed_has_alias_hint_and_join() -> None:
    (embed,) = parse_select("o:owners!pets_owner_id_fkey!inner(*,toys(id))")

    assert embed == Embed(
        "owners", (Star(), Embed("toys", (Column(Field("id")),))), "o", "pets_owner_id_fkey", inner=True
    )


def test_quoted_names_may_hold_anything() -> None:
    assert parse_select('"a,(b)\\"":"c->d"') == (Column(Field("c->d"), alias='a,(b)"'),)


def test_a_name_with_dashes_is_not_an_arrow() -> None:
    assert parse_select("my-col->x") == (Column(Field("my-col", (JsonStep("x", as_text=False),))),)


@pytest.mark.parametrize(
    ("text", "operation"),
    [
        ("eq.a.b", Operation("eq", "a.b")),
        ("not.gt.3", Operation("gt", "3", negated=True)),
        ('in.(a,"b,c","d\\"e")', Operation("in", ("a", "b,c", 'd"e'))),
        ("in.()", Operation("in", ())),
        ("is.NULL", Operation("is", "null")),
        ("like(any).{a*,b*}", Operation("like", "{a*,b*}", modifier="any")),
        ("fts(english).cats & dogs", Operation("fts", "cats & dogs", modifier="english")),
        ("isdistinct.1", Operation("isdistinct", "1")),
        ("cs.{1,2}", Operation("cs", "{1,2}")),
        ("eq.", Operation("eq", "")),
    ],
)
def test_a_filter_is_an_operator_and_all_the_rest(text: str, operation: Operation) -> None:
    assert parse_operation(text) == operation


def test_a_junction_nests_and_its_values_end_at_commas() -> None:
    assert parse_junction(
        '(a.eq.1,not.and(b.in.(x,"y,z"),c.not.is.null),d.cs.{1,2})', kind="or", negated=False
    ) == Junction(
        "or",
        (
            Comparison(Field("a"), Operation("eq", "1")),
            Junction(
                "and",
                (
                    Comparison(Field("b"), Operation("in", ("x", "y,z"))),
                    Comparison(Field("c"), Operation("is", "null", negated=True)),
                ),
                negated=True,
            ),
            Comparison(Field("d"), Operation("cs", "{1,2}")),
        ),
    )


def test_a_filter_key_goes_through_embeds_to_a_json_path() -> None:
    assert parse_key("owners.city.data->>x") == (("owners", "city"), Field("data", (JsonStep("x", as_text=True),)))


def test_an_order_has_direction_nulls_and_relation() -> None:
    assert parse_order("a.desc.nullslast,b,owners(name).asc") == (
        OrderTerm(Field("a"), descending=True, nulls="last"),
        OrderTerm(Field("b")),
        OrderTerm(Field("name"), relation="owners"),
    )


@pytest.mark.parametrize(
    ("key", "value", "column"),
    [
        ("select", "a,,b", 3),
        ("select", "a(b", 4),
        ("id", "equals.1", 1),
        ("id", "eq", 3),
        ("id", "in.(1,2", 8),
        ("id", "in.(1)2", 7),
        ("id", "is.nil", 4),
        ("or", "(a.eq.1", 8),
        ("or", "a.eq.1", 1),
        ("order", "a.up", 2),
    ],
)
def test_what_is_not_of_the_grammar_is_refused_with_its_place(key: str, value: str, column: int) -> None:
    with pytest.raises(ApiError) as refusal:
        parse_parameters([(key, value)], is_call=False)

    assert refusal.value.code == "PGRST100"
    assert f"(line 1, column {column})" in refusal.value.message


@pytest.mark.parametrize("text", ["(" * 5000, "a(" * 5000])
def test_depth_is_bounded(text: str) -> None:
    with pytest.raises(ApiError):
        parse_select(text)
    with pytest.raises(ApiError):
        parse_junction("(" + "and(" * 5000, kind="or", negated=False)


def test_aggregates_are_off() -> None:
    with pytest.raises(ApiError) as refusal:
        parse_select("amount.sum()")

    assert refusal.value.code == "PGRST123"


GRAMMAR = st.text(alphabet='ab1*,.:()!-> "\\{}&\n', max_size=40)


@given(
    key=st.sampled_from(["select", "order", "or", "not.and", "a", "a.or", "columns", "limit"]) | GRAMMAR, value=GRAMMAR
)
def test_any_text_is_either_understood_or_refused(key: str, value: str) -> None:
    with suppress(ApiError):
        parse_parameters([(key, value)], is_call=False)
