"""A Flowise server: first that it is one, without the key, then a list that only a key may read.

Flowise answers an unknown path with its start page and status 200, so an answer counts only as JSON of the right shape.
Its own check of keys takes the key in the URL, which servers log, and is not used.
"""

from __future__ import annotations

from collections.abc import Mapping

import httpx

from shared.runs.models import JsonObject
from shared.vault.probes.answers import get, result
from shared.vault.probes.result import ProbeResult
from shared.vault.secret import Secret


async def flowise(client: httpx.AsyncClient, origin: str, fields: Mapping[str, Secret]) -> ProbeResult:
    """Ask the server for its version, then for one of its flows."""
    version = await get(client, f"{origin}/api/v1/version", {})
    told = (version.body or {}).get("version")
    if version.status >= 500 or version.status == 429:
        return version.refused("Flowise")
    if version.status != 200 or not isinstance(told, str):
        return version.refused("a Flowise server", "not_this_provider")
    details: JsonObject = {"version": told[:40]}
    headers = {"Authorization": f"Bearer {fields['api_key'].reveal()}"}
    answer = await get(client, f"{origin}/api/v1/chatflows?page=1&limit=1", headers)
    if answer.status != 200:
        refused = answer.refused("Flowise")
        return result(refused.outcome, "Flowise", {**details, **refused.details})
    total = (answer.body or {}).get("total")
    if not isinstance(total, int):
        return answer.refused("a Flowise server", "not_this_provider")
    return result("valid", "Flowise", {**details, "flows": total})
