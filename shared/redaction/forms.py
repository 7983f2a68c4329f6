"""The forms in which a secret may turn up: as it is, or as some program has encoded it on the way.

Case, whitespace and backslashes are no part of a form, because the search for them looks past all three: so one form
stands for upper and lower case hexadecimal, for a text broken over lines, and for JSON within JSON.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote, quote_plus, unquote, urlsplit

SHORTEST: Final = 6  # characters; what is shorter is no key, and hiding it would blacken ordinary words

# A header of a credential may be as harmless as `Accept`.
_MEDIA_TYPE: Final = re.compile(r"(?:application|audio|image|multipart|text|video|\*)/[\w.+*-]+(?:[;,].*)?")
_SCHEME: Final = re.compile(r"(?i)(?:bearer|basic|token|key|bot)\s+(?P<value>\S.*)", re.DOTALL)
_URL_SECRET: Final = 16  # characters of a path's segment or of a query's value that may be a key
# By how many bytes stand before it: how many characters of base64 depend on what those bytes are.
_BASE64_LEAD: Final = (0, 2, 3)


def parts(value: str) -> set[str]:
    """What is secret within a credential's value.

    A plain key is secret as a whole. Of an address the scheme, host and port are not: people need them in messages, and
    they stand in harmless texts. Of a header with a scheme, as in `Bearer abc`, what follows is one by itself.
    """
    found = set(_parts(value.strip()))
    return {part for part in found if len(part) >= SHORTEST}


def forms(secret: str) -> set[str]:
    """All forms of a secret, none of them shorter than it is."""
    raw = secret.encode(errors="surrogatepass")
    quoted = quote(raw, safe="")
    found = {
        secret,
        secret[::-1],
        raw.hex(),
        quoted,
        quote(raw),
        quote_plus(raw),
        quote(quoted, safe=""),
        json.dumps(secret)[1:-1],
        html.escape(secret),
    }
    for before, lead in enumerate(_BASE64_LEAD):
        encoded = base64.b64encode(bytes(before) + raw).decode().rstrip("=")[lead:]
        # The last character changes with what follows, unless nothing does.
        whole = (before + len(raw)) % 3 == 0
        for one in {encoded} if whole else {encoded, encoded[:-1]}:
            found |= {one, one.replace("+", "-").replace("/", "_")}
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
