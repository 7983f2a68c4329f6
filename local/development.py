"""What a local stack gives functions and worker beside Supabase's own variables, so that all of them work at once.

Published with the code and the same on every developer's machine, these keys protect nothing. A deployment brings its
own; what the developer's environment says goes first.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Final

from local.keys import ES256_JWK


def _key(name: str) -> str:
    """32 bytes that tell nobody anything, in base64."""
    return base64.b64encode(hashlib.sha256(f"runbase local {name}".encode()).digest()).decode()


VAULT: Final[Mapping[str, str]] = {"ENCRYPTION_KEYS": json.dumps({"1": _key("vault")})}
OUTWARD: Final[Mapping[str, str]] = {"EGRESS_ALLOWED_NETWORKS": "127.0.0.0/8,::1/128"}
WEBHOOK: Final[Mapping[str, str]] = {"RUNBASE_WEBHOOK_KEY": _key("webhook")}
SIGNING: Final[Mapping[str, str]] = {"RUNBASE_JWT_SIGNING_KEY": json.dumps(dict(ES256_JWK))}


def function_variables() -> dict[str, str]:
    """All of them: locally the functions share one process."""
    return _unless_given({**VAULT, **OUTWARD, **WEBHOOK, **SIGNING})


def worker_variables() -> dict[str, str]:
    """What the drain gets in a deployment; it signs nothing."""
    return _unless_given({**VAULT, **OUTWARD, **WEBHOOK})


def _unless_given(defaults: Mapping[str, str]) -> dict[str, str]:
    return {name: os.environ.get(name) or value for name, value in defaults.items()}
