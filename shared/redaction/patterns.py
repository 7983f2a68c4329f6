"""Secrets that give themselves away: keys by their provider's shape, and values by what stands before them.

RE2 searches in linear time, whatever the text; the price is that it looks neither ahead nor behind, so what a pattern
cannot say is checked on its match. Every pattern consists of `RUN` characters, but for the lead that `LEAD` describes:
`StreamRedactor` holds back accordingly.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Final, Protocol, cast

import re2

from shared.redaction.marks import Span, joined, masked

SHORTEST: Final = 12  # characters; nothing below is shorter


class _Match(Protocol):
    def span(self, group: int = 0) -> Span: ...
    def group(self, group: int = 0) -> str: ...
    def groupdict(self) -> dict[str, str]: ...


class _Pattern(Protocol):
    @property
    def groupindex(self) -> dict[str, int]: ...
    def search(self, text: str | bytes) -> _Match | None: ...
    def finditer(self, text: str) -> Iterator[_Match]: ...


@cache
def compiled(pattern: str) -> _Pattern:
    """An RE2 pattern, typed, for the package has no types. Compiled at first use, for that takes milliseconds."""
    return cast("_Pattern", re2.compile(pattern))  # pyright: ignore[reportUnknownMemberType] - it has no types


# Printable ASCII but quotes, brackets, commas, semicolons, backslashes.
RUN: Final = r"[!#$%&*+\-./0-9:=?@A-Z^_a-z~|]"

_PRIVATE_KEY: Final = (
    r"-----BEGIN[A-Z0-9 ]* PRIVATE KEY-----(?:(?:\s|\\+[nr])*[A-Za-z0-9+/=]{12,})*"
    r"(?:(?:[A-Za-z0-9+/=]|\s|\\+[nr])*-----END[A-Z0-9 ]* PRIVATE KEY-----)?"
)
_SHAPES: Final = (
    r"\bsk-[A-Za-z0-9_-]{20,}",  # OpenAI, Anthropic, DeepSeek, OpenRouter
    r"\bAIza[A-Za-z0-9_-]{35}",  # Google
    r"\bsb_(?:secret|publishable)_[A-Za-z0-9_-]{16,}",  # Supabase
    r"\bsbp_[A-Za-z0-9]{20,}",
    r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",  # a JWT
    r"\bgh[pousr]_[A-Za-z0-9]{30,}",  # GitHub
    r"\bgithub_pat_[A-Za-z0-9_]{22,}",
    r"\bglpat-[A-Za-z0-9_-]{20,}",  # GitLab
    r"\bxox[abeprs]-[A-Za-z0-9-]{10,}",  # Slack
    r"\b(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,}",  # Stripe
    r"\bwhsec_[A-Za-z0-9+/]{16,}=*",
    r"\brb_(?:live|test)_[A-Za-z0-9_-]{16,}",  # our own
    r"\b(?:AKIA|ASIA)[A-Z2-7]{16}\b",  # AWS
    r"\bhf_[A-Za-z0-9]{30,}",  # Hugging Face
    r"\bgsk_[A-Za-z0-9]{40,}",  # Groq
    r"\bxai-[A-Za-z0-9]{60,}",
    r"\bSG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{30,}",  # SendGrid
    r"\b[0-9]{8,10}:[A-Za-z0-9_-]{35}\b",  # Telegram
    _PRIVATE_KEY,
)
_NAMES: Final = (
    r"(?:(?i:password|passwd|passphrase|secret|api[_-]?key|private[_-]?key|access[_-]?key|secret[_-]?key|"
    r"(?:access|refresh|auth|session|bearer|bot|api|id)[_-]?token|\btoken)|\b[A-Z0-9_]+_TOKEN)"
)
_VALUE: Final = r"[!#$%*+\-./0-9:=?@A-Z^_a-z~|]"  # RUN, but for what parts the values of a query
_LEADS: Final = (
    r"(?i:\bbearer)\s+(?P<bearer>[A-Za-z0-9._~+/-]{16,}=*)",
    r"(?i:\bbasic)\s+(?P<basic>[A-Za-z0-9+/_-]{8,}={0,2})",
    r"\b[A-Za-z][A-Za-z0-9+.-]*://[!$&*+\-.0-9=A-Z_a-z~%]*:(?P<url>[!#$%&*+\-.0-9:=?A-Z^_a-z~|]+)@",
    _NAMES + rf"(?:\\*[\"'])?\s*[:=]\s*(?P<quote>(?:\\*[\"'])?)(?P<named>{_VALUE}{{8,}})(?P<after>[(\[]?)",
)
LEAD: Final = (
    r"(?:(?i:bearer|basic)\s*|(?i:pass(?:word|wd|phrase)|secret|key|token)(?:\\*[\"'])?\s*[:=]?\s*(?:\\*[\"']?))"
)
"""What may stand, with its whitespace and quotes, between the run before it and the run that is its value."""
OPEN_KEY: Final = r"-----BEGIN[A-Z0-9 ]*(?:-----[A-Za-z0-9+/=\s\\-]*)?"
"""A private key that has not ended."""

_SHAPE: Final = "|".join(_SHAPES)
_LEAD: Final = "|".join(_LEADS)
_ANY: Final = re.sub(r"\?P<\w+>", "?:", f"{_SHAPE}|{_LEAD}")
IN_JSON: Final = _ANY.replace(r"\b", "").replace(r"\s", r"(?:\s|\\[nrt])")
"""RE2 that finds at least as much in a document as text, where a line break is an escape that ends in a letter."""
_PLACEHOLDER: Final = re.compile(r"\$\w+|\$\{.*\}|\{\{.*\}\}|<.*>|%\w+%|\*+|\.{3}|x{3,}", re.IGNORECASE)
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_SEPARATORS: Final = re.compile(r"[-_./~+=]")
_RANDOM_CHARS: Final = 16  # no word is as long, or hardly any
_DOTTED: Final = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+\.?")


def redacted(text: str) -> str:
    """The text without such secrets, keeping what stands before a value."""
    if len(text) < SHORTEST or compiled(_ANY).search(searchable(text)) is None:
        return text
    text = masked(text, _shapes(searchable(text)))
    return masked(text, _led(searchable(text)))


def spans(text: str) -> list[Span]:
    """Where such secrets stand."""
    if len(text) < SHORTEST:
        return []
    searched = searchable(text)
    return joined((*_shapes(searched), *_led(searched)))


def is_placeholder(value: str) -> bool:
    """Whether it only says where a secret goes: `${KEY}`, `<key>`, `****`."""
    return _PLACEHOLDER.fullmatch(value) is not None


def searchable(text: str) -> str:
    """The text as RE2 can read it, character for character: it takes UTF-8, which has no lone surrogates."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def _shapes(text: str) -> list[Span]:
    return [match.span() for match in compiled(_SHAPE).finditer(text) if _is_key(match.group())]


def _led(text: str) -> list[Span]:
    lead = compiled(_LEAD)
    return [
        match.span(lead.groupindex[name])
        for match in lead.finditer(text)
        for name, holds in _CHECKS.items()
        if match.group(lead.groupindex[name]) and holds(match.groupdict())
    ]


def _is_key(text: str) -> bool:
    return not text.startswith("sk-") or _is_random(text[3:])


def _is_random(text: str) -> bool:
    """Whether it was drawn, and is not words and numbers with hyphens, as in names of classes and files."""
    return any(
        len(part) >= _RANDOM_CHARS or (any(map(str.isdigit, part)) and any(map(str.isalpha, part)))
        for part in _SEPARATORS.split(text)
    )


def _holds_bearer(match: dict[str, str]) -> bool:
    return _is_random(match["bearer"])


def _holds_basic(match: dict[str, str]) -> bool:
    value = match["basic"]
    try:
        raw = base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_" if {"-", "_"} & set(value) else None)
        return ":" in raw.decode() and raw.decode().isprintable()
    except ValueError:
        return False


def _holds_url(match: dict[str, str]) -> bool:
    return not is_placeholder(match["url"])


def _holds_named(match: dict[str, str]) -> bool:
    """Whether the value is one, and not the rest of a sentence or of a line of code."""
    value = match["named"]
    if not any(map(str.isdigit, value)) or not _is_random(value) or is_placeholder(value):
        return False
    if match["quote"]:
        return True
    return not match["after"] and _DOTTED.fullmatch(value) is None


_CHECKS: Final[dict[str, Callable[[dict[str, str]], bool]]] = {
    "bearer": _holds_bearer,
    "basic": _holds_basic,
    "url": _holds_url,
    "named": _holds_named,
}
