"""What a credential of each provider consists of, and where it may be sent.

All fields of a credential are sealed as one, so nobody can put another base URL under a key. A model's schema is also
the form that a frontend draws (`to_form`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal, cast
from urllib.parse import unquote, urlsplit

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.egress.policy import bracketed, origin_of
from shared.errors import InvalidInput
from shared.vault.fields import Dsn, Headers, Key, Name, Url
from shared.vault.refusal import sealed
from shared.vault.secret import Secret

Format = Literal["key", "text", "url", "headers", "dsn"]

MIN_TOLD_CHARS: Final = 12  # a shorter key keeps its end to itself: four of twelve characters are a third
_OPEN_FORMATS: Final = frozenset({"text", "url"})  # what may be shown


class FormField(BaseModel):
    """One input of a form."""

    name: str
    label: str
    format: Format
    secret: bool
    required: bool
    help: str | None


class Form(BaseModel):
    """What a person is asked for, to add a credential of a provider."""

    provider: str
    label: str
    fields: list[FormField]


def _asked(label: str, form: Format, *, help: str | None = None) -> Any:  # noqa: A002 - the form's own word
    return Field(title=label, description=help, json_schema_extra={"format": form})


class Credential(BaseModel):
    """Base of the providers' fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    LABEL: ClassVar[str]
    HOSTS: ClassVar[frozenset[str]] = frozenset()

    def to_sealed(self) -> bytes:
        """The whole of it as JSON, to be sealed."""
        return orjson.dumps(self.model_dump(exclude_none=True), option=orjson.OPT_SORT_KEYS)

    def to_fields(self) -> dict[str, Secret]:
        """Each field by its name; headers as a JSON object in text."""
        given = cast("dict[str, str | dict[str, str]]", self.model_dump(exclude_none=True))
        return {
            name: Secret(value if isinstance(value, str) else orjson.dumps(value).decode())
            for name, value in given.items()
        }

    def allowed_hosts(self) -> frozenset[str]:
        """The only places that it may be sent to, as `shared.egress.EgressPolicy` names them."""
        return self.HOSTS

    def secrets(self) -> tuple[str, ...]:
        """What must not be shown, each in the forms it is used in; first the one that people know it by."""
        raise NotImplementedError

    def last_four(self) -> str | None:
        """The end of what people know it by; None when that is too short to tell."""
        known_by = self.secrets()[0]
        return known_by[-4:] if len(known_by) >= MIN_TOLD_CHARS else None


class _WithKey(Credential):
    api_key: Annotated[Key, _asked("API key", "key")]

    def secrets(self) -> tuple[str, ...]:
        return (self.api_key,)


class _WithUrl(Credential):
    base_url: Annotated[Url, _asked("Base URL", "url", help="https://… ; the key is sent nowhere else")]

    def allowed_hosts(self) -> frozenset[str]:
        origin = origin_of(self.base_url)
        return frozenset({f"{origin.scheme}://{bracketed(origin.host)}:{origin.port}"})


class OpenAi(_WithKey):
    """A key of OpenAI's API."""

    LABEL = "OpenAI"
    HOSTS = frozenset({"api.openai.com"})

    organization: Annotated[Name | None, _asked("Organisation", "text", help="If the key has several")] = None
    project: Annotated[Name | None, _asked("Project", "text", help="If the key has several")] = None


class DeepSeek(_WithKey):
    """A key of DeepSeek's API."""

    LABEL = "DeepSeek"
    HOSTS = frozenset({"api.deepseek.com"})


class Anthropic(_WithKey):
    """A key of Anthropic's API."""

    LABEL = "Anthropic"
    HOSTS = frozenset({"api.anthropic.com"})


class Gemini(_WithKey):
    """A key of Google's Gemini API."""

    LABEL = "Google Gemini"
    HOSTS = frozenset({"generativelanguage.googleapis.com"})


class Flowise(_WithUrl, _WithKey):
    """A Flowise server, and a key of it."""

    LABEL = "Flowise"


class Http(_WithUrl):
    """Any HTTP service that knows its callers by headers."""

    LABEL = "HTTP service"

    headers: Annotated[Headers, _asked("Headers", "headers", help="Sent with every request")]

    def secrets(self) -> tuple[str, ...]:
        # Also what stands behind a scheme, as in "Bearer abc".
        values = sorted(self.headers.values(), key=len, reverse=True)
        return tuple(dict.fromkeys([*values, *(value.rpartition(" ")[2] for value in values)]))

    def last_four(self) -> str | None:
        """The end of the longest header, without its scheme; None also for a password in base64."""
        scheme, _, known_by = self.secrets()[0].rpartition(" ")
        return None if scheme.lower() == "basic" or len(known_by) < MIN_TOLD_CHARS else known_by[-4:]


class Postgres(Credential):
    """A PostgreSQL database."""

    LABEL = "PostgreSQL"

    dsn: Annotated[Dsn, _asked("Connection string", "dsn", help="postgresql://user:password@host:port/database")]

    def allowed_hosts(self) -> frozenset[str]:
        parts = urlsplit(self.dsn)
        return frozenset({f"{bracketed(parts.hostname or '')}:{parts.port or 5432}"})

    def secrets(self) -> tuple[str, ...]:
        password = urlsplit(self.dsn).password or ""
        return tuple(dict.fromkeys([self.dsn, password, unquote(password)]))

    def last_four(self) -> None:
        """Nothing: its end is the name of a database, and that of a password is too much."""


PROVIDERS: Final[Mapping[str, type[Credential]]] = {
    "openai": OpenAi,
    "deepseek": DeepSeek,
    "anthropic": Anthropic,
    "gemini": Gemini,
    "flowise": Flowise,
    "http": Http,
    "postgres": Postgres,
}


def parse(provider: str, fields: Mapping[str, object]) -> Credential:
    """Check what a person entered for a provider.

    Raises:
        InvalidInput: the provider is unknown, or a field is wrong; all of them stand in `details`.
    """
    kind = PROVIDERS.get(provider)
    if kind is None:
        raise InvalidInput(f"provider: must be one of {', '.join(PROVIDERS)}")
    try:
        return kind.model_validate(dict(fields), strict=True)
    except ValidationError as error:
        known = kind.model_fields
        problems = [
            f"fields.{where[0]}: {problem['msg']}" if (where := problem["loc"])[0] in known else "fields: Unknown field"
            for problem in error.errors(include_url=False, include_input=False)
        ]
    raise InvalidInput(problems[0], details="; ".join(dict.fromkeys(problems)))


def from_sealed(provider: str, plain: bytes) -> Credential:
    """Read back what `to_sealed` made. What was once taken is taken for good, so it is not checked anew.

    Raises:
        VaultSealed: this deployment does not know the provider (any more).
    """
    kind = PROVIDERS.get(provider)
    if kind is None:
        raise sealed()
    return kind.model_construct(**cast("dict[str, Any]", orjson.loads(plain)))


def secrets_of(provider: str, fields: Mapping[str, Secret]) -> tuple[Secret, ...]:
    """What must not be shown of fields that `to_fields` made."""
    given: dict[str, Any] = {
        name: orjson.loads(value.reveal()) if _format_of(provider, name) == "headers" else value.reveal()
        for name, value in fields.items()
    }
    return tuple(map(Secret, PROVIDERS[provider].model_construct(**given).secrets()))


def to_form(provider: str) -> Form:
    """What to ask a person for."""
    kind = PROVIDERS[provider]
    fields: list[FormField] = []
    for name, field in kind.model_fields.items():
        form = _format_of(provider, name)
        fields.append(
            FormField(
                name=name,
                label=field.title or name,
                format=form,
                secret=form not in _OPEN_FORMATS,
                required=field.is_required(),
                help=field.description,
            )
        )
    return Form(provider=provider, label=kind.LABEL, fields=fields)


def _format_of(provider: str, name: str) -> Format:
    return cast("dict[str, Format]", PROVIDERS[provider].model_fields[name].json_schema_extra)["format"]
