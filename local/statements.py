"""Cut an SQL script into its statements, as the Supabase CLI does to record a migration.

Knows what may hide a semicolon: quotes, dollar quotes, comments, parentheses and `begin atomic ... end`.
Says nothing about whether a statement is valid; PostgreSQL does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""
      (?P<skip>   --[^\n]* | \s+ )
    | (?P<open>   /\* )
    | (?P<quoted> [eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' | "(?:[^"]|"")*" )
    | (?P<dollar> \$(?:[A-Za-z_\x80-\U0010ffff][\w\x80-\U0010ffff]*)?\$ )
    | (?P<word>   [A-Za-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]* )
    | (?P<other>  \d[\w.]* | . )
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_MARK = re.compile(r"/\*|\*/")
# What a semicolon may stand in. `case` matters only because its `end` must not be taken for that of `begin atomic`;
# an `end` that closes nothing is the transaction command.
_NESTING = {"(": 1, ")": -1, "case": 1, "end": -1}


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement without its semicolon; `line` is where it begins in the script, from 1."""

    text: str
    line: int


def split_statements(script: str) -> list[Statement]:
    """Return the statements of a script in order, comments before a statement not counted to it."""
    statements: list[Statement] = []
    start: int | None = None
    end = depth = 0
    previous = ""
    for text, position in _tokens(script):
        word = text.lower()
        if text == ";" and not depth:
            if start is not None:
                statements.append(_statement(script, start, position))
            start = None
        else:
            start = position if start is None else start
            change = 1 if (previous, word) == ("begin", "atomic") else _NESTING.get(word, 0)
            depth = max(depth + change, 0)
        previous = word
        end = position + len(text)
    if start is not None:
        statements.append(_statement(script, start, end))
    return statements


def _statement(script: str, start: int, end: int) -> Statement:
    return Statement(script[start:end].rstrip(), script.count("\n", 0, start) + 1)


def _tokens(script: str) -> Iterator[tuple[str, int]]:
    """Words, quoted things as one, single characters, and where each begins; no white space, no comments."""
    position = 0
    while match := _TOKEN.match(script, position):
        kind = match.lastgroup or "other"
        begin, position = match.span()
        if kind == "open":
            position = _end_of_comment(script, position)
            continue
        if kind == "dollar":
            close = script.find(match.group(), position)
            position = len(script) if close < 0 else close + len(match.group())
        if kind != "skip":
            yield script[begin:position], begin


def _end_of_comment(script: str, position: int) -> int:
    """Block comments nest in SQL."""
    depth = 1
    while depth and (mark := _COMMENT_MARK.search(script, position)):
        depth += 1 if mark.group() == "/*" else -1
        position = mark.end()
    return len(script) if depth else position
