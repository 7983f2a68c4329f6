"""The forms in which a secret may turn up: as it is, or as some program has encoded it on the way.

Case, separators and escapes of single characters are no part of a form, because the search for them looks past all of
them: so one form stands for upper and lower case hexadecimal, for both alphabets of base64, for a text broken over
lines, and for JSON within JSON. What is left are encodings that regroup the bits, and those within one another.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, quote_plus, unquote, urlsplit

SHORTEST: Final = 6  # characters; what is shorter is no key, and hiding it would blacken ordinary words

# A header of a credential may be as harmless as `Accept`.
_MEDIA_TYPE: Final = re.compile(r"(?:application|audio|image|multipart|text|video|\*)/[\w.+*-]+(?:[;,].*)?")
_SCHEME: Final = re.compile(r"(?i)(?:bearer|basic|token|key|bot)\s+(?P<value>\S.*)", re.DOTALL)
_URL_SECRET: Final = 16  # characters of a path's segment or of a query's value that may be a key


@dataclass(frozen=True, slots=True)
class Forms:
    """The forms of one secret.

    Attributes:
        close: None of them shorter than the secret; any twelve characters of one give it away.
        wide: Those that take much more room for the same, so that any 22 characters are looked for.
    """

    close: frozenset[str]
    wide: frozenset[str]


def parts(value: str) -> set[str]:
    """What is secret within a credential's value.

    A plain key is secret as a whole. Of an address the scheme, host and port are not: people need them in messages, and
    they stand in harmless texts. Of a header with a scheme, as in `Bearer abc`, what follows is one by itself.
    """
    found = set(_parts(value.strip()))
    return {part for part in found if len(part) >= SHORTEST}


def forms(secret: str) -> Forms:
    """All forms of a secret."""
    raw = secret.encode(errors="surrogatepass")
    quoted = quote(raw, safe="")
    texts = {secret, quoted, quote_plus(raw), json.dumps(secret)[1:-1], html.escape(secret)}
    close = {*texts, quote(raw), quote(quoted, safe=""), secret[::-1], raw.decode("latin-1"), raw.hex()}
    for text in texts:
        close |= _base64(text.encode(errors="surrogatepass"))
    # The numbers of its bytes, as a list or a dump of them is shown.
    wide = {"".join(map(str, raw)), "".join(f"0x{byte:02x}" for byte in raw)}
    for utf16 in (secret.encode("utf-16-le", "surrogatepass"), secret.encode("utf-16-be", "surrogatepass")):
        wide |= {utf16.hex(), *_base64(utf16)}
    wide |= _base32(raw) | _base85(raw)
    for inner in {*_base64(raw), raw.hex(), raw.hex().upper()}:
        wide |= {inner.encode().hex(), *_base64(inner.encode())}
    return Forms(frozenset(close), frozenset(wide - close))


def _base64(raw: bytes) -> set[str]:
    found: set[str] = set()
    for one in _shifted(raw, base64.b64encode, group=3, bits=6):
        found |= {one, one.replace("+", "-").replace("/", "_")}
    return found


def _base32(raw: bytes) -> set[str]:
    return _shifted(raw, base64.b32encode, group=5, bits=5)


def _base85(raw: bytes) -> set[str]:
    # A group of four bytes becomes five characters, each of which depends on all of them: only whole groups are known.
    return {
        encode(raw[start : start + (len(raw) - start) // 4 * 4]).decode()
        for start in range(min(4, len(raw)))
        for encode in (base64.a85encode, base64.b85encode)
    }


def _shifted(raw: bytes, encode: Callable[[bytes], bytes], *, group: int, bits: int) -> set[str]:
    """What the encoding makes of it, by how many bytes of a group stand before it, without what depends on these."""
    found: set[str] = set()
    for before in range(group):
        lead = -(-before * 8 // bits)
        encoded = encode(bytes(before) + raw).decode().rstrip("=")[lead:]
        # The last character changes with what follows, unless nothing does.
        whole = (before + len(raw)) * 8 % bits == 0
        found |= {encoded} if whole else {encoded, encoded[:-1]}
    return found


def _parts(value: str) -> Iterator[str]:
    if "://" in value:
        yield from _parts_of_address(value)
    elif _MEDIA_TYPE.fullmatch(value) is None:
        yield value
        scheme = _SCHEME.fullmatch(value)
        if scheme is not None:
            yield from _parts_of_authorization(scheme["value"])


def _parts_of_authorization(value: str) -> Iterator[str]:
    yield value
    try:
        user_and_password = base64.b64decode(value, validate=True).decode()
    except ValueError:
        return
    _, colon, password = user_and_password.partition(":")
    if colon:
        yield user_and_password
        yield password


def _parts_of_address(value: str) -> Iterator[str]:
    try:
        address = urlsplit(value)
    except ValueError:  # no address after all
        yield value
        return
    if address.password:
        yield address.password
        yield unquote(address.password)
    elif address.username:  # a key in the place of the user, as Sentry and some Git hosts want it
        yield address.username
        yield unquote(address.username)
    pieces = [*address.path.split("/"), *re.split("[&=;]", address.query), address.fragment]
    for piece in pieces:
        if len(piece) >= _URL_SECRET:
            yield piece
            yield unquote(piece)
