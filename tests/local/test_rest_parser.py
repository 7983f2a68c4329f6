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
    Aggregate,
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


NAME = "field name (* or [a..z0..9_$])"
AFTER_FIELD = 'letter, digit, "-", "->>", "->", "::", ".", ")", "," or end of input'
# Parameter, text -> the place that is refused, and the words for it.
REFUSALS = [
    ("select", "a,,b", 3, f'unexpected "," expecting "...", {NAME}, "*" or "count()"'),
    ("select", "a(b", 4, f"unexpected end of input expecting {AFTER_FIELD}"),
    ("select", "a(b[])", 4, f"unexpected '[' expecting {AFTER_FIELD}"),
    ("select", "*!a", 2, """unexpected '!' expecting ")", "," or end of input"""),
    ("select", "a->>--3", 6, 'unexpected "-" expecting digit'),
    ("select", "a->-3x", 6, """unexpected 'x' expecting digit, "->", "::", ".", "," or end of input"""),
    ("select", "a->(", 4, 'unexpected "(" expecting "-", digit or any non reserved character different from: .,>()'),
    ("id", "7", 1, 'unexpected "7" expecting "not" or operator (eq, gt, ...)'),
    ("id", "noop.7", 1, 'unexpected "o" expecting "not" or operator (eq, gt, ...)'),
    ("id", "not.7", 5, 'unexpected "7" expecting operator (eq, gt, ...)'),
    ("id", "not", 4, "unexpected end of input expecting delimiter (.)"),
    ("id", "equals.1", 3, 'unexpected "u" expecting operator (eq, gt, ...)'),
    ("id", "eq", 3, "unexpected end of input expecting operator (eq, gt, ...)"),
    ("id", "eq().1", 4, 'unexpected ")" expecting operator (eq, gt, ...)'),
    ("id", "is().1", 3, 'unexpected "(" expecting operator (eq, gt, ...)'),
    ("id", "fts().1", 5, 'unexpected ")" expecting operator (eq, gt, ...)'),
    ("id", "in.1", 4, 'unexpected "1" expecting "("'),
    ("id", "in.(1,2", 8, 'unexpected end of input expecting "," or ")"'),
    ("id", "in.(1)2", 7, "unexpected '2' expecting end of input"),
    ("id", "is.nil", 5, 'unexpected "i" expecting isVal: (null, not_null, true, false, unknown)'),
    ("or", "()", 4, f'unexpected ")" expecting {NAME}, negation operator (not) or logic operator (and, or)'),
    ("or", "(a.eq.1", 10, 'unexpected end of input expecting "," or ")"'),
    ("not.or", ")(", 7, 'unexpected ")" expecting "("'),
    ("order", "a.ac", 3, 'unexpected "c" expecting "asc", "desc", "nullsfirst" or "nullslast"'),
    ("order", "a.descc", 7, """unexpected 'c' expecting delimiter (.), "," or end of input"""),
    ("order", "a.asc.nlsfst", 7, 'unexpected "l" expecting "nullsfirst" or "nullslast"'),
    ("order", "a.nullslastt", 12, """unexpected 't' expecting "," or end of input"""),
    (
        "order",
        "b(c,d)",
        2,
        """unexpected '(' expecting letter, digit, "-", "->>", "->", delimiter (.), "," or end of input""",
    ),
    ("columns", "", 1, f"unexpected end of input expecting {NAME}"),
]


@pytest.mark.parametrize(("key", "value", "column", "details"), REFUSALS)
def test_what_is_not_of_the_grammar_is_refused_with_its_place(key: str, value: str, column: int, details: str) -> None:
    with pytest.raises(ApiError) as refusal:
        parse_parameters([(key, value)], is_call=False)

    assert refusal.value.code == "PGRST100"
    assert refusal.value.details == details
    assert refusal.value.message.endswith(f' ({value})" (line 1, column {column})')


def test_what_follows_the_end_of_all_is_ignored_as_postgrest_does() -> None:
    assert parse_select("a,b(c))") == parse_select("a,b(c)")
    assert parse_junction("(a.eq.1))", kind="or", negated=False) == parse_junction("(a.eq.1)", kind="or", negated=False)


def test_blanks_around_a_junctions_parts_are_no_part_of_them() -> None:
    spaced = "( and ( a.in.( 1,2 ) , b.is.null ) , not.or ( c.eq.3,d.eq.4 ) )"

    assert parse_junction(spaced, kind="and", negated=False) == parse_junction(
        "(and(a.in.(1,2 ),b.is.null),not.or(c.eq.3,d.eq.4 ))", kind="and", negated=False
    )


def test_a_json_key_may_hold_what_a_name_may_not() -> None:
    (column,) = parse_select("data->!@#$%^&*_d->>k-2")

    assert isinstance(column, Column)
    assert column.field == Field("data", (JsonStep("!@#$%^&*_d", as_text=False), JsonStep("k-2", as_text=True)))


@pytest.mark.parametrize("text", ["(" * 5000, "a(" * 5000])
def test_depth_is_bounded(text: str) -> None:
    with pytest.raises(ApiError):
        parse_select(text)
    with pytest.raises(ApiError):
        parse_junction("(" + "and(" * 5000, kind="or", negated=False)


def test_aggregates() -> None:
    amount = Column(Field("data", (JsonStep("amount", as_text=True),)), "int")

    assert parse_select("n:count()::text,total:data->>amount::int.sum()::text,data->>amount::int.max()") == (
        Aggregate("count", None, "n", "text"),
        Aggregate("sum", amount, "total", "text"),
        Aggregate("max", amount),
    )


GRAMMAR = st.text(alphabet='ab1*,.:()!-> "\\{}&\n', max_size=40)


@given(
    key=st.sampled_from(["select", "order", "or", "not.and", "a", "a.or", "columns", "limit"]) | GRAMMAR, value=GRAMMAR
)
def test_any_text_is_either_understood_or_refused(key: str, value: str) -> None:
    with suppress(ApiError):
        parse_parameters([(key, value)], is_call=False)
