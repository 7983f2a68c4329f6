"""Secrets as people have them, the ways in which a program may pass them on, and texts that hold none."""

from __future__ import annotations

import base64
import html
import json
import string
from collections.abc import Callable
from itertools import pairwise
from urllib.parse import quote, quote_plus

from hypothesis import strategies as st

Encoding = Callable[[str], str]

ENCODINGS: dict[str, Encoding] = {
    "plain": str,
    "upper": str.upper,
    "reversed": lambda secret: secret[::-1],
    "hex": lambda secret: secret.encode().hex(),
    "upper hex": lambda secret: secret.encode().hex().upper(),
    "url": lambda secret: quote(secret, safe=""),
    "form": quote_plus,
    "url twice": lambda secret: quote(quote(secret, safe=""), safe=""),
    "html": html.escape,
    "json": json.dumps,
    "json twice": lambda secret: json.dumps(json.dumps(secret)),
    "json with unicode": lambda secret: json.dumps(secret, ensure_ascii=False),
    "base64": lambda secret: base64.b64encode(secret.encode()).decode(),
    "base64 after one byte": lambda secret: base64.b64encode(b":" + secret.encode() + b"!").decode(),
    "base64 after two bytes": lambda secret: base64.b64encode(b"u:" + secret.encode() + b"~~").decode(),
    "base64 for addresses": lambda secret: base64.urlsafe_b64encode(b"\xff\xfe" + secret.encode()).decode(),
    "base64 in lines": lambda secret: base64.encodebytes(b"user:" + secret.encode() * 3).decode(),
    "basic auth": lambda secret: "Basic " + base64.b64encode(b"api:" + secret.encode()).decode(),
    "spaced": " ".join,
    "in lines": lambda secret: "\n".join(secret[at : at + 5] for at in range(0, len(secret), 5)),
    "in escaped lines": lambda secret: json.dumps("\n".join(secret[at : at + 7] for at in range(0, len(secret), 7))),
}

KEY_LETTERS = string.ascii_letters + string.digits + "-_"
keys = st.text(KEY_LETTERS, min_size=16, max_size=120)
passwords = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_categories=["Z", "C"]), min_size=16, max_size=40
)
secrets = keys | passwords

_TEXT = (
    "the a task risk disk of tokens max_tokens token password secret key is was not set please basic bearer "
    "authorization api_key = : , . ( ) \n { } \" ' - https://example.com/path?page=2 user@example.com 12 3.14 "
    "def return None task-runner-for-the-project-of-1987 sk- sk-learn risk-assessment-of-the-year-2024-and-later "
    "(550e8400-e29b-41d4-a716-446655440000) "
    "(aGVsbG8gd29ybGQsIHRoaXMgaXMgYSB0ZXh0) (eyJhIjoiYiIsImMiOiJkIn0=) Grüße 你好。世界"
)
prose = st.lists(st.sampled_from(_TEXT.split(" ")), max_size=60).map(" ".join)


def pieces(text: str, cuts: list[int]) -> list[str]:
    """The text parted at these places."""
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[start:end] for start, end in pairwise(places)]


def flat(text: str) -> str:
    """The text without what breaks it up: whitespace, backslashes, and escapes for line breaks."""
    return "".join(text.replace("\\n", "").replace("\\", "").split())


def windows(form: str) -> list[str]:
    """Every twelve characters in a row of what is left of it when it is flat."""
    form = flat(form)
    return [form[start : start + 12] for start in range(len(form) - 11)]
