"""Google's Gemini API: the list of models, which costs nothing. What is wrong stands in Google's `ErrorInfo`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import httpx

from shared.runs.models import JsonObject
from shared.vault.probes.answers import Answer, get, listed, names, result
from shared.vault.probes.result import Outcome, ProbeResult
from shared.vault.secret import Secret

_BY_REASON: Final[Mapping[str, Outcome]] = {
    "API_KEY_INVALID": "wrong_key",
    "CREDENTIALS_MISSING": "wrong_key",
    "API_KEY_EXPIRED": "revoked",
    "CONSUMER_SUSPENDED": "revoked",
    "CONSUMER_INVALID": "revoked",
    "BILLING_DISABLED": "no_credit",
    "RATE_LIMIT_EXCEEDED": "rate_limited",
    "RESOURCE_QUOTA_EXCEEDED": "rate_limited",
}
_REVOKED_WORDS: Final = ("expired", "reported as leaked", "suspended", "deleted")


async def gemini(client: httpx.AsyncClient, origin: str, fields: Mapping[str, Secret]) -> ProbeResult:
    """Ask Google for its models; the key goes in a header, never in the URL, which servers log."""
    answer = await get(client, f"{origin}/v1beta/models?pageSize=100", {"x-goog-api-key": fields["api_key"].reveal()})
    models = listed(answer.body, "models")
    if answer.status != 200 or models is None:
        return answer.refused("Google Gemini", _refusal(answer))
    details: JsonObject = {"models": names(models, "name"), "model_count": len(models)}
    return result("valid", "Google Gemini", details)


def _refusal(answer: Answer) -> Outcome:
    if answer.status == 200:
        return "not_this_provider"
    if any(word in answer.message.lower() for word in _REVOKED_WORDS) and answer.status in {400, 401, 403}:
        return "revoked"
    for info in listed(answer.error, "details") or []:
        if known := _BY_REASON.get(str(info.get("reason"))):
            return known
    if answer.error.get("status") == "FAILED_PRECONDITION":  # the key's country or project may not use the API
        return "no_permission"
    return answer.outcome()
