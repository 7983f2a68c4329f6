"""Any HTTP service: its base URL is asked with the credential's headers, and the status judges.

A service that answers everybody passes whatever the headers are; the message says what was and was not shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, cast

import httpx
import orjson

from shared.vault.probes.answers import get, result
from shared.vault.probes.result import ProbeResult
from shared.vault.secret import Secret

_LABEL: Final = "The service"
_NOT_THERE: Final = frozenset({404, 410})


async def generic(client: httpx.AsyncClient, origin: str, fields: Mapping[str, Secret]) -> ProbeResult:
    """Ask for the base URL."""
    headers = cast("dict[str, str]", orjson.loads(fields["headers"].reveal()))
    answer = await get(client, origin, headers)
    if 200 <= answer.status < 300:
        message = f"The service answers {answer.status} to a request with these headers"
        return result("valid", _LABEL, {"http_status": answer.status}, message=message)
    if answer.status in _NOT_THERE:
        message = f"The service answers {answer.status}: there is nothing at this base URL"
        return result("not_this_provider", _LABEL, {"http_status": answer.status}, message=message)
    if 300 <= answer.status < 400:
        message = f"The service redirects ({answer.status}); enter the address that it redirects to"
        return result("not_this_provider", _LABEL, {"http_status": answer.status}, message=message)
    if answer.outcome() == "not_this_provider":
        message = f"The service answers {answer.status} to GET, which says nothing about the headers"
        return result("untestable", _LABEL, {"http_status": answer.status}, message=message)
    return answer.refused(_LABEL)
