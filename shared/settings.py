"""What the environment tells a function: where Supabase is, and which keys it was given.

Names are Supabase's own, in today's form (`SUPABASE_PUBLISHABLE_KEYS`, JSON) or the legacy one (`SUPABASE_ANON_KEY`).
The environment is read and checked once; a value that is missing or wrong is said by name, never by content.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import cast
from urllib.parse import urlsplit

import orjson

from shared.runs.models import JsonObject

VARIABLES = (
    "SUPABASE_URL",
    "SUPABASE_PUBLISHABLE_KEYS",
    "SUPABASE_ANON_KEY",
    "SUPABASE_SECRET_KEYS",
    "SUPABASE_SERVICE_ROLE_KEY",
    "SUPABASE_JWKS",
    "SUPABASE_JWT_SECRET",
    "SUPABASE_DB_URL",
    "RUNBASE_FUNCTIONS_URL",
)


class SettingsError(Exception):
    """The environment does not say what is needed; the message names the variable."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One deployment's view of its Supabase project. Keys stay out of `repr`.

    Attributes:
        url: The project's URL without a trailing slash.
        publishable_keys: What `apikey` may carry for anyone, the one we send first.
        secret_keys: What proves a service; empty in a function that acts for users only.
        jwks: The public keys of user tokens, if given; otherwise they are fetched from the project.
        jwt_secret: Turns on the legacy HS256 user tokens.
        database_url: A direct connection, for workers.
        own_functions_url: Where the functions answer, if not under the project's URL.
    """

    url: str
    publishable_keys: tuple[str, ...] = ()
    secret_keys: tuple[str, ...] = field(default=(), repr=False)
    jwks: JsonObject | None = field(default=None, repr=False, hash=False)
    jwt_secret: str | None = field(default=None, repr=False)
    database_url: str | None = field(default=None, repr=False)
    own_functions_url: str | None = None

    @property
    def functions_url(self) -> str:
        return self.own_functions_url or f"{self.url}/functions/v1"

    @property
    def issuer(self) -> str:
        """`iss` of every user token."""
        return f"{self.url}/auth/v1"

    @property
    def rest_url(self) -> str:
        return f"{self.url}/rest/v1"

    @property
    def jwks_url(self) -> str:
        return f"{self.issuer}/.well-known/jwks.json"

    @property
    def publishable_key(self) -> str:
        """The key that user-facing functions send as `apikey`.

        Raises:
            SettingsError: there is none.
        """
        return _first(self.publishable_keys, "SUPABASE_PUBLISHABLE_KEYS or SUPABASE_ANON_KEY")

    @property
    def secret_key(self) -> str:
        """The key that service functions act with.

        Raises:
            SettingsError: this function was given none.
        """
        return _first(self.secret_keys, "SUPABASE_SECRET_KEYS or SUPABASE_SERVICE_ROLE_KEY")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read `VARIABLES`; an empty value counts as absent.

        Raises:
            SettingsError: a value is missing or malformed.
        """
        return cls(
            url=_url(environment, "SUPABASE_URL"),
            publishable_keys=_keys(environment, "SUPABASE_PUBLISHABLE_KEYS", legacy="SUPABASE_ANON_KEY"),
            secret_keys=_keys(environment, "SUPABASE_SECRET_KEYS", legacy="SUPABASE_SERVICE_ROLE_KEY"),
            jwks=_json_object(environment, "SUPABASE_JWKS"),
            jwt_secret=environment.get("SUPABASE_JWT_SECRET") or None,
            database_url=environment.get("SUPABASE_DB_URL") or None,
            own_functions_url=(
                _url(environment, "RUNBASE_FUNCTIONS_URL") if environment.get("RUNBASE_FUNCTIONS_URL") else None
            ),
        )


def current_settings() -> Settings:
    """The process's settings. Parsed once; again only if a variable has changed, as between two local stacks.

    Raises:
        SettingsError: a value is missing or malformed.
    """
    return _parsed(tuple(os.environ.get(name, "") for name in VARIABLES))


@lru_cache(maxsize=4)
def _parsed(values: tuple[str, ...]) -> Settings:
    return Settings.from_environment(dict(zip(VARIABLES, values, strict=True)))


def _url(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "").rstrip("/")
    if not value:
        raise SettingsError(f"{name} is missing, and has no default.")
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise SettingsError(f"{name} is not an http or https URL.")
    return value


def _keys(environment: Mapping[str, str], name: str, *, legacy: str) -> tuple[str, ...]:
    """The named keys, `default` first, then the legacy one: a project may still use both."""
    named = _json_object(environment, name) or {}
    if not all(isinstance(key, str) and key for key in named.values()):
        raise SettingsError(f'{name} must map names to keys, as {{"default": "sb_..."}}.')
    keys = cast("dict[str, str]", named)
    ordered = [keys[label] for label in sorted(keys, key=lambda label: label != "default")]
    return (*ordered, *filter(None, [environment.get(legacy)]))


def _json_object(environment: Mapping[str, str], name: str) -> JsonObject | None:
    value = environment.get(name)
    if not value:
        return None
    try:
        parsed = orjson.loads(value)
    except orjson.JSONDecodeError as exc:
        raise SettingsError(f"{name} is not JSON (line {exc.lineno}, column {exc.colno}).") from None
    if not isinstance(parsed, dict):
        raise SettingsError(f"{name} is not a JSON object.")
    return cast("JsonObject", parsed)


def _first(keys: tuple[str, ...], names: str) -> str:
    if not keys:
        raise SettingsError(f"{names} is missing, and has no default.")
    return keys[0]
