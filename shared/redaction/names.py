"""Names under which secrets stand in objects: `password`, `api_key`, `Authorization`, but not `max_tokens`."""

from __future__ import annotations

import re
from typing import Final

_NAMES: Final = frozenset(
    {
        "accesstoken",
        "apitoken",
        "authorization",
        "authtoken",
        "bearertoken",
        "bottoken",
        "connectionstring",
        "cookie",
        "dsn",
        "idtoken",
        "proxyauthorization",
        "pwd",
        "refreshtoken",
        "sessiontoken",
        "setcookie",
        "token",
    }
)
_ENDINGS: Final = (
    "password",
    "passwd",
    "passphrase",
    "secret",
    "apikey",
    "accesskey",
    "secretkey",
    "privatekey",
    "accesstoken",
    "authtoken",
    "refreshtoken",
)
_SEPARATORS: Final = re.compile(r"[-_ .]")

IN_JSON: Final = (
    r"(?i:password|passwd|passphrase|secret|pwd|api[-_ .]?key|access[-_ .]?key|secret[-_ .]?key|private[-_ .]?key|"
    r"token|authorization|cookie|connection[-_ .]?string|dsn)\"\s*:\s*[\"\[]"
)
"""RE2 that finds, in a document as text, every name that `is_secret_name` may say yes to."""


def is_secret_name(name: str) -> bool:
    """Whether a text under this name is a secret, whatever it looks like."""
    plain = _SEPARATORS.sub("", name).lower()
    return plain in _NAMES or plain.endswith(_ENDINGS)
