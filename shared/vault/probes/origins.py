"""Where each provider is. A local stack may put stand-ins in their place; a deployment may not, or it would send
people's keys to whatever its environment names.

    RUNBASE_PROVIDER_ORIGINS    {"openai": "http://127.0.0.1:4010", ...}: refused where SUPABASE_URL is not this machine
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final, cast
from urllib.parse import urlsplit

import orjson

from shared.egress.surroundings import is_loopback
from shared.settings import SettingsError
from shared.vault.secret import Secret

VARIABLE: Final = "RUNBASE_PROVIDER_ORIGINS"

_ORIGINS: Final[Mapping[str, str]] = {
    "openai": "https://api.openai.com",
    "deepseek": "https://api.deepseek.com",
    "anthropic": "https://api.anthropic.com",
    "gemini": "https://generativelanguage.googleapis.com",
}


def base_of(provider: str, fields: Mapping[str, Secret]) -> str:
    """The address that a provider's paths stand behind: its own, or the credential's base URL.

    Raises:
        SettingsError: a stand-in is named where none may be.
    """
    if provider not in _ORIGINS:
        return fields["base_url"].reveal().rstrip("/")
    return _stand_ins().get(provider, _ORIGINS[provider])


def _stand_ins() -> Mapping[str, str]:
    text = os.environ.get(VARIABLE, "")
    if not text:
        return {}
    if not is_loopback(urlsplit(os.environ.get("SUPABASE_URL", "")).hostname or ""):
        raise SettingsError(f"{VARIABLE} is for local use only, and SUPABASE_URL is not on this machine.")
    try:
        value: object = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict) or not all(
        isinstance(one, str) for one in cast("dict[str, object]", value).values()
    ):
        raise SettingsError(f"{VARIABLE} is not a JSON object of origins by provider.")
    return cast("dict[str, str]", value)
