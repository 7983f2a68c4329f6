"""Which model a name means. SDKs are heavy, so each is imported only when a model of its provider is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from shared.egress.surroundings import is_loopback
from shared.errors import InvalidInput
from shared.llm.model import Model
from shared.llm.presets import PRESETS
from shared.llm.scripted import ScriptedModel

_WAYS = "Set ANTHROPIC_API_KEY, or RUNBASE_LLM=provider:model, for example ollama:qwen3."


def model_from_env(env: Mapping[str, str]) -> Model | None:
    """The model that the environment asks for: RUNBASE_LLM, else Anthropic's if there is a key, else None.

    Raises:
        InvalidInput: RUNBASE_LLM names no known provider, or its key is missing.
    """
    if name := env.get("RUNBASE_LLM", "").strip():
        return model_named(name, env)
    return model_named("anthropic", env) if env.get("ANTHROPIC_API_KEY") else None


@dataclass(frozen=True, slots=True)
class OwnAccount:
    """A person's key at a provider, and what of the account it is for."""

    api_key: str = field(repr=False)
    organization: str | None = None
    project: str | None = None


def model_named(name: str, env: Mapping[str, str], *, own: OwnAccount | None = None) -> Model:
    """The model `provider:model`, by `env` with the platform's key, or with a person's own.

    A person's key goes to its provider alone, whatever server `env` puts in its place for the platform's; only a local
    stack's stand-ins get it. Nor does it go with the platform's organisation.

    Raises:
        InvalidInput: the provider is unknown, the model is missing, or the key is not set.
    """
    provider, _, model = name.partition(":")
    if provider == "scripted":
        return ScriptedModel.load(model)
    if provider == "anthropic":
        from shared.llm import anthropic  # noqa: PLC0415 - 0.5 s of SDK, see above

        key = _key(name, "ANTHROPIC_API_KEY", env) if own is None else own.api_key
        base_url = _base_url("ANTHROPIC_BASE_URL", env, own) or anthropic.DEFAULT_BASE_URL
        return anthropic.AnthropicModel(model or anthropic.DEFAULT_MODEL, api_key=key, base_url=base_url)
    preset = PRESETS.get(provider)
    if preset is None:
        known = ", ".join(["anthropic", *PRESETS, "scripted"])
        raise InvalidInput(f"The model {name!r} has no known provider.", hint=f"Providers: {known}. {_WAYS}")
    if not model:
        raise InvalidInput(f"The model {name!r} names a provider only.", hint=f"Write {provider}:model.")
    from shared.llm import openai  # noqa: PLC0415 - same

    base_url = _base_url(preset.base_url_variable, env, own)
    if own is not None:
        account = openai.Account(own.organization, own.project)
        return openai.OpenAIModel(preset, model, api_key=own.api_key, base_url=base_url, account=account)
    key = _key(name, preset.key_variable, env) if preset.key_variable is not None else env.get("RUNBASE_LLM_KEY")
    return openai.OpenAIModel(preset, model, api_key=key, base_url=base_url)


def _base_url(variable: str, env: Mapping[str, str], own: OwnAccount | None) -> str | None:
    is_local = is_loopback(urlsplit(env.get("SUPABASE_URL", "")).hostname or "")
    return env.get(variable) if own is None or is_local else None


def _key(name: str, variable: str, env: Mapping[str, str]) -> str:
    key = env.get(variable, "").strip()
    if not key:
        raise InvalidInput(f"The model {name!r} needs {variable}, which is not set.", hint=_WAYS)
    return key
