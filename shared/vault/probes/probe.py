"""Ask a provider whether a key works: once, for at most ten seconds, at no cost to the key's account.

Nothing that a provider or the network does is raised: it is an outcome. What the provider said passes a redactor that
knows the key, because providers repeat keys in their errors.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import httpx

from shared.egress import AddressBlocked, AnswerRefused, ConnectionBroke, EgressPolicy, TlsFailed, Unreachable
from shared.egress.client import egress_client
from shared.egress.network import Resolver, system_resolver
from shared.errors import InvalidInput, Upstream, UpstreamTimeout
from shared.redaction import Redactor
from shared.runs.models import JsonObject
from shared.vault.probes.answers import result
from shared.vault.probes.anthropic import anthropic
from shared.vault.probes.flowise import flowise
from shared.vault.probes.gemini import gemini
from shared.vault.probes.generic import generic
from shared.vault.probes.openai import deepseek, openai
from shared.vault.probes.origins import base_of
from shared.vault.probes.result import Outcome, ProbeResult
from shared.vault.providers import PROVIDERS, secrets_of
from shared.vault.secret import Secret

TOTAL_SECONDS: Final = 10.0
MAX_BYTES: Final = 2 * 1024 * 1024

Probe = Callable[[httpx.AsyncClient, str, Mapping[str, Secret]], Awaitable[ProbeResult]]

_PROBES: Final[Mapping[str, Probe]] = {
    "openai": openai,
    "deepseek": deepseek,
    "anthropic": anthropic,
    "gemini": gemini,
    "flowise": flowise,
    "http": generic,
}


async def probe(
    provider: str,
    fields: Mapping[str, Secret],
    *,
    seconds: float = TOTAL_SECONDS,
    resolver: Resolver = system_resolver,
) -> ProbeResult:
    """Ask `provider` whether `fields` (as its form has them, already checked) work.

    Raises:
        KeyError: there is no such provider, or a field of it is missing.
        SettingsError: the environment is wrong.
    """
    label = PROVIDERS[provider].LABEL
    ask = _PROBES.get(provider)
    if ask is None:
        return result("untestable", label)
    # Before the call: while it lives, the process's log does not show the key either.
    hide = Redactor(*secrets_of(provider, fields))
    found = await _asked(ask, provider, label, fields, seconds, resolver)
    details: JsonObject = hide.json(found.details)
    return ProbeResult(found.valid, found.outcome, hide.text(found.message), details)


async def _asked(
    ask: Probe, provider: str, label: str, fields: Mapping[str, Secret], seconds: float, resolver: Resolver
) -> ProbeResult:
    base = base_of(provider, fields)
    try:
        bound = EgressPolicy.for_url(base)
        policy = EgressPolicy(allowed_hosts=bound.allowed_hosts, total_seconds=seconds, max_bytes=MAX_BYTES)
        async with asyncio.timeout(seconds), egress_client(policy, resolver=resolver) as client:
            return await ask(client, base, fields)
    except TimeoutError:
        return result("timeout", label)
    except InvalidInput as exc:
        return result("address_blocked", label, message=exc.message)
    except AddressBlocked:
        return result("address_blocked", label)
    except Upstream as exc:
        return result(_outcome(exc), label, message=_told(exc, label))


def _outcome(exc: Upstream) -> Outcome:
    match exc:
        case Unreachable():
            return "unreachable"
        case ConnectionBroke():
            return "provider_down"
        case UpstreamTimeout():
            return "timeout"
        case TlsFailed():
            return "tls"
        case AnswerRefused():
            return "not_this_provider"
        case _:
            return "provider_down"


def _told(exc: Upstream, label: str) -> str | None:
    """What only the connection's own error can tell; the rest has its own words."""
    return f"{label}: {exc.message}" if isinstance(exc, TlsFailed | Unreachable) else None
