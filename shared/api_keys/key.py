"""An API key as text: `rb_live_`, 38 random characters, and a checksum of both in 6.

The random part has 226 bits, so nobody finds a key by trying. The checksum says nothing about whether a key exists; it
lets a typo be refused without asking the database, and a scanner tell a leaked key from other text.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import string
import zlib
from typing import Final

from shared.errors import Unauthenticated

PREFIX: Final = "rb_live_"
_FAMILY: Final = "rb_"
_ALPHABET: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_RANDOM_CHARS: Final = 38
_CHECKSUM_CHARS: Final = 6  # 62**6 is over 2**32
_FORM: Final = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{_RANDOM_CHARS + _CHECKSUM_CHARS}}}")


def new_key() -> str:
    """A key that nobody has."""
    body = PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM_CHARS))
    return body + _checksum(body)


def is_api_key(token: str) -> bool:
    """Whether the text is meant to be one of our keys; no JWT and no key of Supabase's begins like one."""
    return token.startswith(_FAMILY)


def hash_of(key: str) -> str:
    """What stands for the key everywhere but at its owner's: SHA-256 in hexadecimal.

    Raises:
        Unauthenticated: the text cannot be a key. The message says why and repeats nothing of it.
    """
    if not key.startswith(PREFIX):
        raise Unauthenticated("The API key has an unknown prefix", hint=f"Keys begin with {PREFIX}")
    if not _FORM.fullmatch(key):
        raise Unauthenticated(
            f"The API key is malformed: after {PREFIX} come {_RANDOM_CHARS + _CHECKSUM_CHARS} letters and digits",
            hint="Was it cut off, or copied with a space or a quote?",
        )
    if _checksum(key[:-_CHECKSUM_CHARS]) != key[-_CHECKSUM_CHARS:]:
        raise Unauthenticated("The API key has a typo: its checksum does not fit")
    return hashlib.sha256(key.encode()).hexdigest()


def _checksum(body: str) -> str:
    number = zlib.crc32(body.encode())
    digits = ""
    for _ in range(_CHECKSUM_CHARS):
        number, digit = divmod(number, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits
