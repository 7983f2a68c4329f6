"""OpenAI, and DeepSeek, which speaks its protocol: the list of models, which costs nothing.

OpenAI tells of an empty account only when a model is called, so a key that passes may still be without credit; DeepSeek
tells its balance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import httpx

from shared.runs.models import Json, JsonObject
from shared.vault.probes.answers import Answer, get, headroom, listed, names, objects, result
from shared.vault.probes.result import Outcome, ProbeResult
from shared.vault.secret import Secret

_NO_CREDIT: Final = frozenset(
    {"insufficient_quota", "credit_balance_exhausted", "billing_not_active", "billing_hard_limit_reached"}
)
_REVOKED: Final = frozenset({"account_deactivated", "organization_deactivated", "token_expired", "key_expired"})
_REVOKED_WORDS: Final = ("deactivated", "revoked", "expired", "disabled", "deleted", "archived")
_NOT_ALLOWED: Final = frozenset({"ip_not_authorized", "mismatched_organization", "mismatched_project"})
_NOT_ALLOWED_WORDS: Final = (
    "member of an organization",
    "ip not authorized",
    "insufficient permissions",
    "missing scopes",
)


async def openai(client: httpx.AsyncClient, origin: str, fields: Mapping[str, Secret]) -> ProbeResult:
    """Ask OpenAI for its models."""
    headers = _bearer(fields)
    if "organization" in fields:
        headers["OpenAI-Organization"] = fields["organization"].reveal()
    if "project" in fields:
        headers["OpenAI-Project"] = fields["project"].reveal()
    answer = await get(client, f"{origin}/v1/models", headers)
    models = listed(answer.body, "data")
    if answer.status != 200 or models is None:
        return answer.refused("OpenAI", _refusal(answer))
    details: JsonObject = {"models": names(models, "id"), "model_count": len(models)}
    if organization := answer.headers.get("openai-organization"):
        details["organization"] = organization[:200]
    if project := answer.headers.get("openai-project"):
        details["project"] = project[:200]
    if left := headroom(answer.headers, "x-ratelimit-", subject_first=False):
        details["rate_limits"] = left
    return result("valid", "OpenAI", details)


async def deepseek(client: httpx.AsyncClient, origin: str, fields: Mapping[str, Secret]) -> ProbeResult:
    """Ask DeepSeek for its models, then for the account's balance."""
    answer = await get(client, f"{origin}/models", _bearer(fields))
    models = listed(answer.body, "data")
    if answer.status != 200 or models is None:
        return answer.refused("DeepSeek", _refusal(answer))
    details: JsonObject = {"models": names(models, "id"), "model_count": len(models)}
    balance = await get(client, f"{origin}/user/balance", _bearer(fields))
    if balance.status == 200 and (accounts := listed(balance.body, "balance_infos")) is not None:
        details["credit"] = [_balance(account) for account in accounts]
        if (balance.body or {}).get("is_available") is False:
            return result("no_credit", "DeepSeek", details)
    elif balance.status == 402:
        return result("no_credit", "DeepSeek", details)
    return result("valid", "DeepSeek", details)


def _bearer(fields: Mapping[str, Secret]) -> dict[str, str]:
    return {"Authorization": f"Bearer {fields['api_key'].reveal()}"}


def _balance(account: JsonObject) -> Json:
    shown = ("currency", "total_balance", "granted_balance", "topped_up_balance")
    return {name: str(account[name])[:40] for name in shown if name in account}


def _refusal(answer: Answer) -> Outcome:
    if answer.status == 200:
        return "not_this_provider"
    error = objects(answer.body, "error")
    kinds = {str(error.get("code")), str(error.get("type"))}
    said = answer.message.lower()
    if kinds & _NO_CREDIT:
        return "no_credit"
    if kinds & _REVOKED or (answer.status in {401, 403} and any(word in said for word in _REVOKED_WORDS)):
        return "revoked"
    if kinds & _NOT_ALLOWED or (answer.status == 401 and any(word in said for word in _NOT_ALLOWED_WORDS)):
        return "no_permission"
    return answer.outcome()
