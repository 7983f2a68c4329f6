"""A cursor over one query parameter: the lexical ground of the grammar in `parser`."""

from __future__ import annotations

import re

from local.rest.errors import ApiError, not_parsed

# Letters, digits, `_`, `$` and inner blanks; single dashes join them unless they begin an arrow.
_IDENTIFIER = re.compile(r"[\w $]+(?:-(?!>)[\w $]+)*")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


class Scanner:
    """Reads `text` from left to right. Every refusal names the place and what could have stood there."""

    def __init__(self, text: str, *, what: str) -> None:
        self.text = text
        self.position = 0
        self._what = what

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

    def name(self, expecting: str = "field name (* or [a..z0..9_$])") -> str:
        """An identifier, quoted or bare."""
        value = self.quoted()
        if value is None:
            found = self.match(_IDENTIFIER)
            value = found[0].strip() if found else ""
        if not value:
            raise self.failure(expecting)
        return value

    def rest(self) -> str:
        start, self.position = self.position, len(self.text)
        return self.text[start:]

    def end(self) -> None:
        if not self.at_end:
            raise self.failure("end of input")

    def failure(self, expecting: str) -> ApiError:
        seen = "end of input" if self.at_end else f'"{self.text[self.position]}"'
        return not_parsed(
            f"{self._what} ({self.text})",
            column=self.position + 1,
            details=f"unexpected {seen} expecting {expecting}",
        )
