"""The grammar of PostgREST's query parameters, by recursive descent.

    select     = [item *("," item)]
    item       = "*" / [alias ":"] field ["::" cast] / ["..." / ".." / alias ":"] name *("!" modifier) "(" select ")"
    field      = name *(("->" / "->>") (name / integer))
    filter     = ["not."] operator ["(" modifier ")"] "." value
    junction   = "(" condition *("," condition) ")"
    condition  = ["not."] ("and" / "or") junction / field "." filter
    order      = term *("," term)
    term       = (field / name "(" field ")") ["." ("asc" / "desc")] ["." ("nullsfirst" / "nullslast")]

A value of a plain filter runs to the end of its parameter; within a junction it ends at `,` or `)` unless it
is quoted or an array literal. Text that is not of the grammar is PGRST100, whatever it holds: nothing is guessed.
"""

from __future__ import annotations

import re
from functools import lru_cache

from local.rest.errors import ApiError, aggregates_are_off
from local.rest.query import (
    COMPARISONS,
    QUANTIFIABLE,
    SEARCHES,
    Column,
    Comparison,
    Condition,
    Embed,
    Field,
    JsonStep,
    Junction,
    Operation,
    OrderTerm,
    SelectItem,
    Star,
)
from local.rest.scanner import Scanner

MAX_DEPTH = 32  # nested embeds or junctions; far beyond any client, far below Python's stack

_CACHED = 1024  # texts; a client sends few different shapes
_INDEX = re.compile(r"-?[0-9]+(?=->|::|[.,)]|$)")
_LONGEST_INDEX = 18  # characters; the database refuses all but the shortest, and Python reads no endless ones
_OPERATOR = re.compile(r"[a-z]+")
_LANGUAGE = re.compile(r"\(([A-Za-z0-9_]+)\)")
_QUANTIFIER = re.compile(r"\((any|all)\)")
_TRUTH = re.compile(r"not_null|null|true|false|unknown", re.IGNORECASE)
_UNQUOTED = re.compile(r"[^,)]*")
_ARRAY = re.compile(r'\{(?:"(?:[^"\\]|\\.)*"|[^{}"])*\}(?=[,)])')
_AGGREGATE = re.compile(r"\.(?:sum|avg|max|min|count)\(\)")
_BLANKS = re.compile(r"[ \t]*")
_COMMA = re.compile(r"[ \t]*,[ \t]*")
_VALUE_END = (",", ")")


@lru_cache(_CACHED)
def parse_select(text: str) -> tuple[SelectItem, ...]:
    scanner = Scanner(text, what="select parameter")
    items = _select(scanner, depth=0)
    scanner.end()
    return items


@lru_cache(_CACHED)
def parse_key(text: str) -> tuple[tuple[str, ...], Field]:
    """Split the key of a filter into the embeds it goes through and the field it ends at."""
    scanner = Scanner(text, what="tree path")
    names = [scanner.name()]
    while scanner.accept("."):
        names.append(scanner.name())
    steps = _json_path(scanner)
    scanner.end()
    return tuple(names[:-1]), Field(names[-1], steps)


def parse_operation(text: str) -> Operation:
    """Parse the value of a plain filter."""
    scanner = Scanner(text, what="filter")
    operation = _operation(scanner, nested=False)
    scanner.end()
    return operation


def begins_operation(text: str) -> bool:
    """Whether a parameter of a function call is a filter on its result rather than an argument."""
    scanner = Scanner(text, what="filter")
    scanner.accept("not.")
    try:
        _operator(scanner)
    except ApiError:
        return False
    return True


def parse_junction(text: str, *, kind: str, negated: bool) -> Junction:
    scanner = Scanner(text, what="logic tree")
    junction = _junction(scanner, kind=kind, negated=negated, depth=0)
    scanner.end()
    return junction


@lru_cache(_CACHED)
def parse_order(text: str) -> tuple[OrderTerm, ...]:
    scanner = Scanner(text, what="order")
    terms = [_order_term(scanner)]
    while scanner.match(_COMMA):
        terms.append(_order_term(scanner))
    scanner.end()
    return tuple(terms)


@lru_cache(_CACHED)
def parse_names(text: str, *, what: str) -> tuple[str, ...]:
    """Parse a list of column names, as `columns` and `on_conflict` hold."""
    scanner = Scanner(text, what=f"{what} parameter")
    names = [scanner.name()]
    while scanner.accept(","):
        names.append(scanner.name())
    scanner.end()
    return tuple(names)


def _select(scanner: Scanner, *, depth: int) -> tuple[SelectItem, ...]:
    if depth > MAX_DEPTH:
        raise scanner.failure(f"at most {MAX_DEPTH} nested embeds")
    if scanner.at_end or scanner.sees(")"):
        return ()
    items = [_item(scanner, depth=depth)]
    while scanner.match(_COMMA):
        items.append(_item(scanner, depth=depth))
    return tuple(items)


def _item(scanner: Scanner, *, depth: int) -> SelectItem:
    scanner.match(_BLANKS)
    if scanner.accept("*"):
        return Star()
    if scanner.accept("...") or scanner.accept(".."):
        return _embed(scanner, scanner.name(), alias=None, spread=True, depth=depth)
    alias, name = None, scanner.name()
    if scanner.sees(":") and not scanner.sees("::"):
        scanner.expect(":")
        alias, name = name, scanner.name()
    if name == "count" and scanner.sees("()"):
        raise aggregates_are_off()
    if scanner.sees("!") or scanner.sees("("):
        return _embed(scanner, name, alias=alias, spread=False, depth=depth)
    steps = _json_path(scanner)
    cast = scanner.name("type name") if scanner.accept("::") else None
    if scanner.match(_AGGREGATE):
        raise aggregates_are_off()
    return Column(Field(name, steps), cast, alias)


def _embed(scanner: Scanner, target: str, *, alias: str | None, spread: bool, depth: int) -> Embed:
    hint, inner = None, False
    while scanner.accept("!"):
        modifier = scanner.name("hint")
        if modifier == "inner":
            inner = True
        elif modifier != "left":
            hint = modifier
    scanner.expect("(")
    items = _select(scanner, depth=depth + 1)
    scanner.expect(")", '"," or ")"')
    return Embed(target, items, alias, hint, inner, spread)


def _json_path(scanner: Scanner) -> tuple[JsonStep, ...]:
    steps: list[JsonStep] = []
    while scanner.accept("->"):
        as_text = scanner.accept(">")
        index = scanner.match(_INDEX)
        if index is not None and len(index[0]) > _LONGEST_INDEX:
            raise ApiError(400, "22003", f'value "{index[0]}" is out of range for type integer')
        steps.append(JsonStep(int(index[0]) if index else scanner.name("JSON key or index"), as_text))
    return tuple(steps)


def _operator(scanner: Scanner) -> tuple[str, str | None]:
    """The operator with its modifier, and the dot behind it."""
    start = scanner.position
    found = scanner.match(_OPERATOR)
    name = found[0] if found else ""
    modifier = None
    if name in SEARCHES:
        modifier = scanner.match(_LANGUAGE)
    elif name in QUANTIFIABLE:
        modifier = scanner.match(_QUANTIFIER)
    elif name not in COMPARISONS and name not in {"in", "is"}:
        scanner.position = start
        raise scanner.failure("operator (eq, gt, ...)")
    scanner.expect(".", "delimiter (.)")
    return name, modifier[1] if modifier else None


def _operation(scanner: Scanner, *, nested: bool) -> Operation:
    negated = scanner.accept("not.")
    operator, modifier = _operator(scanner)
    if operator == "in":
        return Operation(operator, _list(scanner), negated)
    if operator == "is":
        truth = scanner.match(_TRUTH)
        if truth is None:
            raise scanner.failure("isVal: (null, not_null, true, false, unknown)")
        return Operation(operator, truth[0].lower(), negated)
    value = _nested_value(scanner) if nested else scanner.rest()
    return Operation(operator, value, negated, modifier)


def _list(scanner: Scanner) -> tuple[str, ...]:
    scanner.expect("(")
    if scanner.accept(")"):
        return ()
    elements = [_delimited(scanner)]
    while scanner.accept(","):
        elements.append(_delimited(scanner))
    scanner.expect(")", '"," or ")"')
    return tuple(elements)


def _delimited(scanner: Scanner) -> str:
    """A quoted value, or all up to the next `,` or `)`; a quote that does not end the value is part of it."""
    start = scanner.position
    quoted = scanner.quoted()
    if quoted is not None and (scanner.at_end or scanner.text[scanner.position] in _VALUE_END):
        return quoted
    scanner.position = start
    found = scanner.match(_UNQUOTED)
    return found[0] if found else ""


def _nested_value(scanner: Scanner) -> str:
    array = scanner.match(_ARRAY)
    return array[0] if array else _delimited(scanner)


def _junction(scanner: Scanner, *, kind: str, negated: bool, depth: int) -> Junction:
    if depth > MAX_DEPTH:
        raise scanner.failure(f"at most {MAX_DEPTH} nested conditions")
    scanner.expect("(")
    conditions = [_condition(scanner, depth=depth)]
    while scanner.accept(","):
        conditions.append(_condition(scanner, depth=depth))
    scanner.expect(")", '"," or ")"')
    return Junction("or" if kind == "or" else "and", tuple(conditions), negated)


def _condition(scanner: Scanner, *, depth: int) -> Condition:
    start = scanner.position
    negated = scanner.accept("not.")
    for kind in ("and", "or"):
        if scanner.sees(f"{kind}("):
            scanner.expect(kind)
            return _junction(scanner, kind=kind, negated=negated, depth=depth + 1)
    scanner.position = start
    name = scanner.name("logic operator (and, or) or field name")
    steps = _json_path(scanner)
    scanner.expect(".", "delimiter (.)")
    return Comparison(Field(name, steps), _operation(scanner, nested=True))


def _order_term(scanner: Scanner) -> OrderTerm:
    relation, name = None, scanner.name()
    if scanner.accept("("):
        relation, name = name, scanner.name()
    field = Field(name, _json_path(scanner))
    if relation is not None:
        scanner.expect(")")
    descending = scanner.accept(".desc")
    if not descending:
        scanner.accept(".asc")
    if scanner.accept(".nullsfirst"):
        return OrderTerm(field, descending, "first", relation)
    if scanner.accept(".nullslast"):
        return OrderTerm(field, descending, "last", relation)
    return OrderTerm(field, descending, None, relation)
