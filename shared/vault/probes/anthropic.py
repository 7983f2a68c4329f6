"""Anthropic: the list of models, which costs nothing. An account without credit may still list them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import httpx

from shared.runs.models import JsonObject
from shared.vault.probes.answers import Answer, get, headroom, listed, names, result
from shared.vault.probes.result import Outcome, ProbeResult
from shared.vault.secret import Secret

_VERSION: Final = "2023-06-01"
_BY_TYPE: Final[Mapping[str, Outcome]] = {
    "authentication_error": "wrong_key",
    "billing_error": "no_credit",
    "permission_error": "no_permission",
    "rate_limit_error": "rate_limited",
    "overloaded_error": "provider_down",
    "api_error": "provider_down",
    "timeout_error": "provider_down",
}
_REVOKED_WORDS: Final = ("has been disabled", "revoked", "expired", "deactivated", "archived")


async def anthropic(client: httpx.AsyncClient, origin: str, fields: Mapping[str, Secret]) -> ProbeResult:
    """Ask Anthropic for its models."""
    headers = {"x-api-key": fields["api_key"].reveal(), "anthropic-version": _VERSION}
    answer = await get(client, f"{origin}/v1/models?limit=100", headers)
    models = listed(answer.body, "data")
    if answer.status != 200 or models is None:
        return answer.refused("Anthropic", _refusal(answer))
    details: JsonObject = {"models": names(models, "id"), "model_count": len(models)}
    if organization := answer.headers.get("anthropic-organization-id"):
        details["organization"] = organization[:200]
    if left := headroom(answer.headers, "anthropic-ratelimit-", subject_first=True):
        details["rate_limits"] = left
    return result("valid", "Anthropic", details)


def _refusal(answer: Answer) -> Outcome:
    if answer.status == 200:
        return "not_this_provider"
    said = answer.message.lower()
    if "credit balance" in said or "spend limit" in said or "usage limits" in said:
        return "no_credit"
    if answer.status in {400, 401, 403} and any(word in said for word in _REVOKED_WORDS):
        return "revoked"
    return _BY_TYPE.get(str(answer.error.get("type"))) or answer.outcome()
