"""What an API key may be allowed. The database decides by the key's row; here are the names, as it has them."""

from __future__ import annotations

from typing import Final, Literal, get_args

Scope = Literal[
    "runs:read",
    "runs:write",
    "agents:read",
    "agents:write",
    "credentials:read",
    "credentials:write",
    "account:read",
]

SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)
