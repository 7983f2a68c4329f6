"""Secrets as people have them, the ways in which a program may pass them on, and texts that hold none."""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import json
import string
import textwrap
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
    "base32": lambda secret: base64.b32encode(secret.encode()).decode(),
    "numbers of bytes": lambda secret: json.dumps([*secret.encode()]),
    "all url": lambda secret: "".join(f"%{byte:02x}" for byte in secret.encode()),
    "all url upper": lambda secret: "".join(f"%{byte:02X}" for byte in secret.encode()),
    "all url twice": lambda secret: "".join(f"%25{byte:02X}" for byte in secret.encode()),
    "all u escaped": lambda secret: "".join(f"\\u{ord(one):04x}" for one in secret),
    "all braced": lambda secret: "".join(f"\\u{{{ord(one):X}}}" for one in secret),
    "all x escaped": lambda secret: "".join(f"\\x{byte:02x}" for byte in secret.encode()),
    "all octal": lambda secret: "".join(f"\\{byte:03o}" for byte in secret.encode()),
    "all html": lambda secret: "".join(f"&#{ord(one)};" for one in secret),
    "all html hex": lambda secret: "".join(f"&#x{ord(one):x};" for one in secret),
    "quoted printable": lambda secret: "".join(f"={byte:02X}" for byte in secret.encode()),
    "hex dump": lambda secret: ", ".join(f"0x{byte:02x}" for byte in secret.encode()),
}

# The steps of a chain, in the order in which a chain takes them: bits regrouped, characters escaped, characters parted.
BLOCKS: dict[str, Encoding] = {
    "hex": lambda text: text.encode().hex(),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 for addresses": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
}
LONE_BLOCKS: dict[str, Encoding] = {
    "base32": lambda text: base64.b32encode(text.encode()).decode(),
    "base32 lower": lambda text: base64.b32encode(text.encode()).decode().lower(),
    "base85": lambda text: base64.b85encode(text.encode()).decode(),
    "ascii85": lambda text: base64.a85encode(text.encode()).decode(),
    "base64 of UTF-16": lambda text: base64.b64encode(text.encode("utf-16-le")).decode(),
    "base64 of UTF-16 BE": lambda text: base64.b64encode(text.encode("utf-16-be")).decode(),
    "hex of UTF-16": lambda text: text.encode("utf-16-le").hex(),
}
# Two of them are undone; "all url twice" is two.
ESCAPES = {name: ENCODINGS[name] for name in ENCODINGS if name.startswith("all ") and "twice" not in name} | {
    "quoted printable": ENCODINGS["quoted printable"],
    "json": json.dumps,
    "url": ENCODINGS["url"],
    "html": html.escape,
}
SEPARATED: dict[str, Encoding] = {
    "zero-width": "\u200b".join,
    "soft hyphens": "\u00ad".join,
    "spaced": " ".join,
    "dotted": ".".join,
    "dashed": "-".join,
    "underscored": "_".join,
    "folded at 60": lambda text: "\n".join(textwrap.wrap(text, 60)),
    "folded at 64": lambda text: "\r\n".join(textwrap.wrap(text, 64)),
    "folded at 76": lambda text: "\n".join(textwrap.wrap(text, 76)),
    "as a list": lambda text: json.dumps([*text]),
}
ENCODINGS |= {name: SEPARATED[name] for name in ("zero-width", "soft hyphens", "folded at 60", "folded at 76")}
ENCODINGS |= {name: LONE_BLOCKS[name] for name in ("base32 lower", "base64 of UTF-16", "hex of UTF-16")}
_STEPS = ENCODINGS | BLOCKS | LONE_BLOCKS | ESCAPES | SEPARATED

KEY_LETTERS = string.ascii_letters + string.digits + "-_"
keys = st.text(KEY_LETTERS, min_size=16, max_size=120)
passwords = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_categories=["Z", "C"]), min_size=16, max_size=40
).filter(lambda text: "/" not in text)  # a media type is no secret, nor is all of an address
secrets = keys | passwords
random_keys = st.integers(min_value=0).map(
    lambda seed: "sk-" + base64.urlsafe_b64encode(hashlib.sha384(str(seed).encode()).digest()).decode()
)
"""Keys as providers draw them."""


@st.composite
def chains(draw: st.DrawFn) -> tuple[str, ...]:
    """Names of encodings that a secret has gone through, one after the other."""
    lone = st.sampled_from(sorted(LONE_BLOCKS)).map(_one)
    blocks = draw(st.lists(st.sampled_from(sorted(BLOCKS)), max_size=2) | lone)
    # Both of base 85 have %, & and = among their digits, so they may look like escapes.
    escapes = draw(st.lists(st.sampled_from(sorted(ESCAPES)), max_size=0 if "85" in "".join(blocks) else 2))
    return (*blocks, *escapes, *draw(st.lists(st.sampled_from(sorted(SEPARATED)), max_size=0 if escapes else 1)))


def _one(name: str) -> list[str]:
    return [name]


def encoded_by(chain: tuple[str, ...], secret: str) -> str:
    """The secret after these encodings."""
    return functools.reduce(lambda text, name: _STEPS[name](text), chain, secret)


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
