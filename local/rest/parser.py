"""The grammar of PostgREST's query parameters, by recursive descent.

    select     = [item *("," item)]
    item       = "*" / [alias ":"] column ["." function "()" ["::" cast]] / [alias ":"] "count()" ["::" cast]
               / ["..." / ".." / alias ":"] name *("!" modifier) "(" select ")"
    column     = field ["::" cast]
    field      = name *(("->" / "->>") (name / integer))
    filter     = ["not."] operator ["(" modifier ")"] "." value
    junction   = "(" condition *("," condition) ")"        ; blanks around each of these
    condition  = ["not."] ("and" / "or") junction / field "." filter
    order      = term *("," term)
    term       = (field / name "(" field ")") ["." ("asc" / "desc")] ["." ("nullsfirst" / "nullslast")]

A value of a plain filter runs to the end of its parameter; within a junction it ends at `,` or `)` unless it
is quoted or an array literal. Text that is not of the grammar is PGRST100, in the words of PostgREST's own parser;
only what follows the end of the last junction or embed is ignored, as there.
"""

from __future__ import annotations

import re
from functools import lru_cache

from local.rest.errors import ApiError
from local.rest.query import (
    COMPARISONS,
    QUANTIFIABLE,
    SEARCHES,
    TRUTHS,
    Aggregate,
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
from local.rest.scanner import FIELD_NAME, Scanner

MAX_DEPTH = 32  # nested embeds or junctions; far beyond any client, far below Python's stack

_CACHED = 1024  # texts; a client sends few different shapes
_INDEX = re.compile(r"-?[0-9]+(?=->|::|[.,)]|$)")
_NEGATIVE = re.compile(r"-[0-9]*")
_LONGEST_INDEX = 18  # characters; the database refuses all but the shortest, and Python reads no endless ones
_LANGUAGE = re.compile(r"\(([\w $]+)\)")
_QUANTIFIER = re.compile(r"\((any|all)\)")
_TRUTH = re.compile("|".join(TRUTHS), re.IGNORECASE)
_UNQUOTED = re.compile(r"[^,)]*")
_ARRAY = re.compile(r'\{(?:"(?:[^"\\]|\\.)*"|[^{}"])*\}(?=[,)])')
_AGGREGATE = re.compile(r"\.(sum|avg|max|min|count)\(\)")
_JUNCTION = re.compile(r"[ \t]*(not\.)?(and|or)(?=[ \t]*\()")
_DIRECTION = re.compile(r"\.(asc|desc)")
_NULLS_ORDER = re.compile(r"\.nulls(first|last)")
_BEFORE_COMMA = re.compile(r"[ \t]*(?=,)")
_COMMA = re.compile(r"[ \t]*,[ \t]*")
_VALUE_END = (",", ")")
# In the order in which they are looked for: of two that fit the first is meant.
_OPERATORS = ("in", "is", "isdistinct", *SEARCHES, *(name for name in COMPARISONS if name != "isdistinct"))
_OPERATOR = "operator (eq, gt, ...)"
_ITEM = f'"...", {FIELD_NAME}, "*" or "count()"'
_AFTER_ITEM = '")", "," or end of input'
_AFTER_FIELD = f'letter, digit, "-", "->>", "->", "::", ".", {_AFTER_ITEM}'
_ORDER_END = 'delimiter (.), "," or end of input'
_NULLS = '"nullsfirst" or "nullslast"'


@lru_cache(_CACHED)
def parse_select(text: str) -> tuple[SelectItem, ...]:
    scanner = Scanner(text, what="select parameter")
    items = _select(scanner, depth=0)
    if items and not (isinstance(items[-1], Embed) or scanner.sees(")")):
        scanner.end(_after(items[-1]))
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
        _operator(scanner, negated=False)
    except ApiError:
        return False
    return True


def parse_junction(text: str, *, kind: str, negated: bool) -> Junction:
    scanner = Scanner(text, what="logic tree", behind=f"not.{kind}" if negated else kind)
    return _junction(scanner, kind=kind, negated=negated, depth=0)


@lru_cache(_CACHED)
def parse_order(text: str) -> tuple[OrderTerm, ...]:
    scanner = Scanner(text, what="order")
    terms = [_order_term(scanner)]
    while scanner.match(_COMMA):
        terms.append(_order_term(scanner))
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


def _after(item: SelectItem) -> str:
    """What may follow an item, as PostgREST says it."""
    return _AFTER_FIELD if isinstance(item, Column) else _AFTER_ITEM


def _item(scanner: Scanner, *, depth: int) -> SelectItem:
    scanner.blanks()
    if scanner.accept("*"):
        return Star()
    if scanner.accept("...") or scanner.accept(".."):
        return _embed(scanner, scanner.name(), alias=None, spread=True, depth=depth)
    alias, name = None, scanner.name(_ITEM)
    if scanner.sees(":") and not scanner.sees("::"):
        scanner.expect(":")
        alias, name = name, scanner.name()
    if name == "count" and scanner.accept("()"):
        return Aggregate("count", None, alias, _cast(scanner))
    if scanner.sees("!") or scanner.sees("("):
        return _embed(scanner, name, alias=alias, spread=False, depth=depth)
    steps = _json_path(scanner)
    cast = _cast(scanner)
    aggregate = scanner.match(_AGGREGATE)
    if aggregate is not None:
        return Aggregate(aggregate[1], Column(Field(name, steps), cast), alias, _cast(scanner))
    return Column(Field(name, steps), cast, alias)


def _cast(scanner: Scanner) -> str | None:
    return scanner.name("type name") if scanner.accept("::") else None


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
    if not scanner.accept(")"):
        raise scanner.failure(_after(items[-1]) if items else _ITEM, quote='"' if scanner.at_end else "'")
    return Embed(target, items, alias, hint, inner, spread)


def _json_path(scanner: Scanner) -> tuple[JsonStep, ...]:
    steps: list[JsonStep] = []
    while scanner.accept("->"):
        as_text = scanner.accept(">")
        steps.append(JsonStep(_json_step(scanner), as_text))
    return tuple(steps)


def _json_step(scanner: Scanner) -> str | int:
    index = scanner.match(_INDEX)
    if index is None:
        if scanner.sees("-"):
            digits = scanner.match(_NEGATIVE)
            expecting = 'digit, "->", "::", ".", "," or end of input' if digits and digits[0] != "-" else "digit"
            raise scanner.failure(expecting, quote='"' if expecting == "digit" else "'")
        return scanner.json_key()
    if len(index[0]) > _LONGEST_INDEX:
        raise ApiError(400, "22003", f'value "{index[0]}" is out of range for type integer')
    return int(index[0])


def _operator(scanner: Scanner, *, negated: bool) -> tuple[str, str | None]:
    """The operator with its modifier, and the dot behind it."""
    start = furthest = scanner.position
    for name in _OPERATORS:
        scanner.position = start
        if not scanner.accept(name):
            continue
        modifier = _modifier(scanner, name)
        if scanner.accept("."):
            return name, modifier
        if name in SEARCHES or name in QUANTIFIABLE:
            scanner.accept("(")
        furthest = max(furthest, scanner.position)
    scanner.position = start
    if furthest > start:
        raise scanner.failure(_OPERATOR, at=furthest)
    first = "in" if negated else "not"  # what is looked for first, up to the letter that differs
    same = _common(scanner.text[start:].lower(), first)
    if first == "not" and same == len(first):
        raise scanner.failure("delimiter (.)", at=start + same)
    seen = scanner.text[start + same : start + same + 1]
    raise scanner.failure_of(seen, _OPERATOR if negated else f'"not" or {_OPERATOR}', column=start)


def _modifier(scanner: Scanner, name: str) -> str | None:
    if name in SEARCHES:
        found = scanner.match(_LANGUAGE)
        return found[1].strip() if found else None
    found = scanner.match(_QUANTIFIER) if name in QUANTIFIABLE else None
    return found[1] if found else None


def _common(text: str, word: str) -> int:
    """How many letters `text` begins with as `word` does."""
    return next((at for at, letter in enumerate(word) if text[at : at + 1] != letter), len(word))


def _operation(scanner: Scanner, *, nested: bool) -> Operation:
    negated = scanner.accept("not.")
    operator, modifier = _operator(scanner, negated=negated)
    if operator == "in":
        return Operation(operator, _list(scanner), negated)
    if operator == "is":
        return Operation(operator, _truth(scanner), negated)
    value = _nested_value(scanner) if nested else scanner.rest()
    return Operation(operator, value, negated, modifier)


def _truth(scanner: Scanner) -> str:
    truth = scanner.match(_TRUTH)
    if truth is None:
        seen = scanner.text[scanner.position :].lower()
        at = scanner.position + max(_common(seen, word) for word in TRUTHS)
        raise scanner.failure(f"isVal: ({', '.join(TRUTHS)})", at=at)
    return truth[0].lower()


def _list(scanner: Scanner) -> tuple[str, ...]:
    _open(scanner)
    elements = [_delimited(scanner)]
    while scanner.accept(","):
        elements.append(_delimited(scanner))
    _close(scanner)
    return () if elements == [""] else tuple(elements)


def _open(scanner: Scanner) -> None:
    scanner.blanks()
    scanner.expect("(")
    scanner.blanks()


def _close(scanner: Scanner) -> None:
    scanner.blanks()
    scanner.expect(")", '"," or ")"')
    scanner.blanks()


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
    _open(scanner)
    conditions = [_condition(scanner, depth=depth)]
    while scanner.match(_COMMA):
        conditions.append(_condition(scanner, depth=depth))
    _close(scanner)
    return Junction("or" if kind == "or" else "and", tuple(conditions), negated)


def _condition(scanner: Scanner, *, depth: int) -> Condition:
    found = scanner.match(_JUNCTION)
    if found is not None:
        return _junction(scanner, kind=found[2], negated=found[1] is not None, depth=depth + 1)
    name = scanner.name(f"{FIELD_NAME}, negation operator (not) or logic operator (and, or)")
    steps = _json_path(scanner)
    scanner.expect(".", "delimiter (.)")
    return Comparison(Field(name, steps), _operation(scanner, nested=True))


def _order_term(scanner: Scanner) -> OrderTerm:
    scanner.blanks()
    relation, name = None, scanner.name()
    opened = scanner.position
    if scanner.accept("("):
        relation, name = name, scanner.name()
    field = Field(name, _json_path(scanner))
    if relation is not None and not scanner.accept(")"):
        raise scanner.failure(f'letter, digit, "-", "->>", "->", {_ORDER_END}', at=opened, quote="'")
    direction, nulls = scanner.match(_DIRECTION), scanner.match(_NULLS_ORDER)
    if not (scanner.at_end or scanner.match(_BEFORE_COMMA)):
        raise _order_failure(scanner, field, directed=direction is not None, ended=nulls is not None)
    order = "first" if nulls and nulls[1] == "first" else "last" if nulls else None
    return OrderTerm(field, direction is not None and direction[1] == "desc", order, relation)


def _order_failure(scanner: Scanner, field: Field, *, directed: bool, ended: bool) -> ApiError:
    """What could have stood here; a word behind a dot is refused where it begins, at the letter that differs."""
    start = scanner.position
    if ended:
        return scanner.failure('"," or end of input', quote="'")
    if not scanner.accept("."):
        before = "" if directed else 'digit, "->", ' if field.path else 'letter, digit, "-", "->>", "->", '
        return scanner.failure(f"{before}{_ORDER_END}", quote="'")
    same = _common(scanner.text[scanner.position :], "nullsfirst" if directed else "asc")
    seen = scanner.text[scanner.position + same : scanner.position + same + 1]
    return scanner.failure_of(seen, _NULLS if directed else f'"asc", "desc", {_NULLS}', column=start + 1)
