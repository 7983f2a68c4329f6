"""Hides secrets in texts and documents: what a run has opened, what has a known shape, what stands under a known name.

What has nothing to hide comes out as it went in, the very same object, and nearly for nothing: a document is searched
once as text, and is only walked through if that finds anything. Redacting twice is the same as once.
"""

from __future__ import annotations

import threading
import weakref
from typing import Final, TypeVar, cast

import orjson

from shared.redaction import names, patterns
from shared.redaction.escapes import without_json_escapes
from shared.redaction.forms import SHORTEST
from shared.redaction.known import KnownValues
from shared.redaction.marks import MARK, Span, joined, masked
from shared.redaction.stream import StreamRedactor
from shared.vault.secret import Secret

Value = TypeVar("Value")

_SUSPECT: Final = f"{patterns.IN_JSON}|{names.IN_JSON}"
_SHORTEST_DOCUMENT: Final = 12  # bytes; there is room for {"ok":true} and for no secret
_in_process: Final[weakref.WeakSet[KnownValues]] = weakref.WeakSet()
_adding: Final = threading.Lock()


class Redactor:
    """Knows the secrets of one run; without any it goes by shapes and names alone."""

    def __init__(self, *secrets: Secret) -> None:
        self._known = KnownValues()
        if secrets:
            self.know(*secrets)

    def know(self, *secrets: Secret) -> None:
        """Hide these values from now on, in every form; in this process's log too, while the redactor lives."""
        self._known.add(secret.reveal() for secret in secrets)
        with _adding:
            _in_process.add(self._known)

    def text(self, text: str) -> str:
        """The text without secrets."""
        if self._known and len(text) >= SHORTEST:
            text = masked(text, self._known.spans(text))
        return patterns.redacted(text)

    def json(self, value: Value, raw: bytes | None = None) -> Value:
        """The document without secrets; numbers, names and shape stay. It is not changed in place.

        What is no JSON is left as it is, for whoever stores the document to refuse. `raw` is how it is written, where
        somebody has that already.
        """
        try:
            raw = raw or orjson.dumps(value)
        except TypeError:  # half a character, a number beyond 64 bits, or no JSON
            return cast("Value", self._walked(value))
        return cast("Value", self._walked(value)) if self._is_suspect(raw) else value

    def stream(self) -> StreamRedactor:
        """Redact a text that comes in pieces."""
        return StreamRedactor(self)

    def known_spans(self, text: str) -> list[Span]:
        """Where values stand in the text that this redactor was told of."""
        return self._known.spans(text)

    def spans(self, text: str) -> list[Span]:
        """Where anything stands that is to be hidden."""
        return joined((*self._known.spans(text), *patterns.spans(text)))

    @property
    def knows_any(self) -> bool:
        """Whether it was told of any secret."""
        return bool(self._known)

    def _is_suspect(self, raw: bytes) -> bool:
        if len(raw) >= _SHORTEST_DOCUMENT and patterns.compiled(_SUSPECT).search(raw) is not None:
            return True
        return bool(self._known) and self._known.found_in(without_json_escapes(raw.decode()))

    def _walked(self, value: object) -> object:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            members = cast("dict[str, object]", value)
            return {self.text(name): self._member(name, member) for name, member in members.items()}
        if isinstance(value, list):
            return self._walked_items(cast("list[object]", value))
        if _is_number(value) and self._known.found_in(str(value)):
            return MARK
        return value

    def _walked_items(self, items: list[object]) -> list[object]:
        """The items, each by itself once what stands in several of them together is hidden."""
        if not self._known or len(items) == 1:
            return [self._walked(item) for item in items]
        texts = [item if isinstance(item, str) else str(item) if _is_number(item) else "" for item in items]
        spans = self._known.spans("\n".join(texts))
        shown: list[object] = []
        at = passed = 0
        for item, text in zip(items, texts, strict=True):
            end = at + len(text)
            here: list[Span] = []
            while passed < len(spans) and spans[passed][0] < end:
                start, until = spans[passed]
                if until > at:
                    here.append((max(start, at) - at, min(until, end) - at))
                if until > end:
                    break  # it goes on in the next item
                passed += 1
            if not here:
                shown.append(self._walked(item))
            else:
                shown.append(patterns.redacted(masked(text, here)) if isinstance(item, str) else MARK)
            at = end + 1
        return shown

    def _member(self, name: str, value: object) -> object:
        if not names.is_secret_name(name):
            return self._walked(value)
        if isinstance(value, list):
            return [self._hidden(item) for item in cast("list[object]", value)]
        return self._hidden(value)

    def _hidden(self, value: object) -> object:
        if not isinstance(value, str):
            return self._walked(value)
        return value if not value or patterns.is_placeholder(value) else MARK


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_by_shape: Final = Redactor()


def redact_text(text: str) -> str:
    """The text without secrets of a known shape: for places that belong to no run."""
    return _by_shape.text(text)


def redact_json(value: Value) -> Value:
    """The document without secrets of a known shape or under a known name: for places that belong to no run."""
    return _by_shape.json(value)


def redact_line(text: str) -> str:
    """The text without secrets of a known shape and without any value that is open in this process: for its log."""
    with _adding:
        known = list(_in_process)
    for values in known:
        text = masked(text, values.spans(text))
    return patterns.redacted(text)
