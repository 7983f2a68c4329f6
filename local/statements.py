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
    """One statement without its semicolon, the comments before it included.

    Lines count from 1 in the script: `begins` is the text's first, `line` that of the code in it.
    """

    text: str
    begins: int
    line: int


def split_statements(script: str) -> list[Statement]:
    """Return the statements of a script in order; text between semicolons that is only white space is none."""
    statements: list[Statement] = []
    start = depth = 0
    code: int | None = None
    previous = ""
    for text, position in _tokens(script):
        word = text.lower()
        if text == ";" and not depth:
            statements += _statement(script, start, position, code)
            start, code = position + 1, None
        else:
            code = position if code is None else code
            change = 1 if (previous, word) == ("begin", "atomic") else _NESTING.get(word, 0)
            depth = max(depth + change, 0)
        previous = word
    return statements + _statement(script, start, len(script), code)


def _statement(script: str, start: int, end: int, code: int | None) -> list[Statement]:
    text = script[start:end].strip()
    if not text:
        return []
    begin = script.index(text, start)
    lines = [script.count("\n", 0, position) + 1 for position in (begin, begin if code is None else code)]
    return [Statement(text, *lines)]


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
