"""One answer of a provider, and the readings that all providers share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast

import httpx
import orjson

from shared.runs.models import Json, JsonObject
from shared.vault.probes.result import Outcome, ProbeResult

MAX_EXCERPT_CHARS: Final = 300
MAX_SHOWN: Final = 20  # models, scopes and the like

_BY_STATUS: Final[Mapping[int, Outcome]] = {
    401: "wrong_key",
    402: "no_credit",
    403: "no_permission",
    429: "rate_limited",
}
_MESSAGES: Final[Mapping[Outcome, str]] = {
    "valid": "{label} accepts the key",
    "wrong_key": "{label} does not know this key",
    "revoked": "{label} no longer accepts this key: it was revoked, has expired, or its account is closed",
    "no_permission": "{label} knows the key, but it may not do this",
    "no_credit": "{label} accepts the key, but its account has no credit left",
    "not_this_provider": "What answers at this address is not {label}",
    "rate_limited": "{label} was asked too often for now; nothing is known of the key",
    "provider_down": "{label} has trouble of its own; nothing is known of the key",
    "unreachable": "{label} cannot be reached",
    "timeout": "{label} did not answer within 10 seconds",
    "tls": "No trustworthy connection to {label} can be made",
    "address_blocked": "This address may not be called from here",
    "untestable": "There is no harmless way to test a credential of {label}",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Attributes:
        body: The JSON, or None where it is none or no object.
    """

    status: int
    headers: httpx.Headers
    body: JsonObject | None

    @property
    def error(self) -> JsonObject:
        """The `error` object that OpenAI's, Anthropic's and Google's answers hold; empty where there is none."""
        return objects(self.body, "error")

    @property
    def message(self) -> str:
        """What the provider says went wrong."""
        body = self.body or {}
        for value in (self.error.get("message"), body.get("message"), body.get("error")):
            if isinstance(value, str):
                return value
        return ""

    def outcome(self) -> Outcome:
        """What the status alone tells; a success is not told by it."""
        if self.status >= 500:
            return "provider_down"
        return _BY_STATUS.get(self.status, "not_this_provider")

    def refused(self, label: str, outcome: Outcome | None = None) -> ProbeResult:
        """The result for an answer that is no success."""
        details: JsonObject = {"http_status": self.status}
        if self.message:
            details["provider_message"] = self.message[:MAX_EXCERPT_CHARS]
        if wait := self.headers.get("retry-after"):
            details["retry_after"] = wait[:100]
        return result(outcome or self.outcome(), label, details)


def result(
    outcome: Outcome, label: str, details: JsonObject | None = None, *, message: str | None = None
) -> ProbeResult:
    """A result in our own words."""
    told = message or _MESSAGES[outcome].format(label=label)
    return ProbeResult(valid=outcome == "valid", outcome=outcome, message=told, details=details or {})


async def get(client: httpx.AsyncClient, url: str, headers: Mapping[str, str]) -> Answer:
    """Ask. Redirects are not followed: no provider redirects its API, and a key goes nowhere else."""
    response = await client.get(url, headers=dict(headers), follow_redirects=False)
    return Answer(response.status_code, response.headers, _object(response.content))


def objects(parent: Mapping[str, Json] | None, name: str) -> JsonObject:
    """The object under a name; empty where there is none."""
    value = (parent or {}).get(name)
    return value if isinstance(value, dict) else {}


def listed(parent: Mapping[str, Json] | None, name: str) -> list[JsonObject] | None:
    """The objects of the list under a name; None where there is no list."""
    value = (parent or {}).get(name)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else None


def names(items: list[JsonObject], field: str) -> list[Json]:
    """A few of the texts under one field, in order."""
    texts = sorted(value for item in items if isinstance(value := item.get(field), str))
    return [text[:200] for text in texts[:MAX_SHOWN]]


def headroom(headers: httpx.Headers, prefix: str, *, subject_first: bool) -> JsonObject:
    """How much may be asked yet, as rate-limit headers tell: {"requests": {"limit", "remaining", "reset"}, ...}.

    `x-ratelimit-remaining-requests` names its subject last, `anthropic-ratelimit-requests-remaining` first.
    """
    found: dict[str, Json] = {}
    for subject in ("requests", "tokens", "input-tokens", "output-tokens"):
        told: dict[str, Json] = {}
        for field in ("limit", "remaining", "reset"):
            name = f"{prefix}{subject}-{field}" if subject_first else f"{prefix}{field}-{subject}"
            if (value := headers.get(name)) is not None:
                told[field] = int(value) if value.isdecimal() and len(value) < 16 else value[:100]
        if told:
            found[subject.replace("-", "_")] = told
    return found


def _object(content: bytes) -> JsonObject | None:
    try:
        value: object = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    return cast("JsonObject", value) if isinstance(value, dict) else None
