"""A cursor over one query parameter: the lexical ground of the grammar in `parser`."""

from __future__ import annotations

import re

from local.rest.errors import ApiError, not_parsed

# Letters, digits, `_`, `$` and inner blanks; single dashes join them unless they begin an arrow.
_IDENTIFIER = re.compile(r"[\w $]+(?:-(?!>)[\w $]+)*")
# What a key in a JSON path may hold besides; the same of dashes.
_JSON_KEY = re.compile(r"[^-(:.,>)]+(?:-(?!>)[^-(:.,>)]+)*")
_BLANKS = re.compile(r"[ \t]*")
FIELD_NAME = "field name (* or [a..z0..9_$])"
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


class Scanner:
    """Reads `text` from left to right. Every refusal names the place and what could have stood there."""

    def __init__(self, text: str, *, what: str, behind: str = "") -> None:
        """Read `text`, which PostgREST reads `behind` a word of its own: places are counted with that."""
        self.text = text
        self.position = 0
        self._what = what
        self._shift = len(behind)

    @property
    def at_end(self) -> bool:
        return self.position == len(self.text)

    def accept(self, token: str) -> bool:
        """Step over `token` if it is next."""
        if not self.text.startswith(token, self.position):
            return False
        self.position += len(token)
        return True

    def expect(self, token: str, expecting: str | None = None) -> None:
        if not self.accept(token):
            raise self.failure(expecting or f'"{token}"')

    def sees(self, token: str) -> bool:
        return self.text.startswith(token, self.position)

    def match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Step over what `pattern` matches here."""
        found = pattern.match(self.text, self.position)
        if found is not None:
            self.position = found.end()
        return found

    def quoted(self) -> str | None:
        """A `"..."` value with its escapes resolved, or None where no whole one begins."""
        found = self.match(_QUOTED)
        return None if found is None else _ESCAPED.sub(r"\1", found[1])

    def blanks(self) -> None:
        self.match(_BLANKS)

    def name(self, expecting: str = FIELD_NAME) -> str:
        """An identifier, quoted or bare."""
        return self._word(_IDENTIFIER, expecting)

    def json_key(self) -> str:
        return self._word(_JSON_KEY, '"-", digit or any non reserved character different from: .,>()')

    def _word(self, pattern: re.Pattern[str], expecting: str) -> str:
        value = self.quoted()
        if value is None:
            start, found = self.position, self.match(pattern)
            value = found[0].strip() if found else ""
            self.position = self.position if value else start
        if not value:
            raise self.failure(expecting)
        return value

    def rest(self) -> str:
        start, self.position = self.position, len(self.text)
        return self.text[start:]

    def end(self, expecting: str = "end of input") -> None:
        if not self.at_end:
            raise self.failure(expecting, quote="'")

    def failure(self, expecting: str, *, at: int | None = None, quote: str = '"') -> ApiError:
        """The refusal of what stands at the cursor, or `at` another place."""
        seen = self.position if at is None else at
        return self.failure_of(self.text[seen : seen + 1], expecting, column=seen, quote=quote)

    def failure_of(self, seen: str, expecting: str, *, column: int, quote: str = '"') -> ApiError:
        """The refusal of `seen`, which need not be what stands at `column`: a word is refused where it begins."""
        unexpected = f"{quote}{seen}{quote}" if seen else "end of input"
        return not_parsed(
            f"{self._what} ({self.text})",
            column=column + self._shift + 1,
            details=f"unexpected {unexpected} expecting {expecting}",
        )
