"""What a probe finds out: a closed set of outcomes, so that nobody has to read a provider's prose."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from shared.runs.models import Json, JsonObject

Outcome = Literal[
    "valid",  # the key works
    "wrong_key",  # the provider does not know it
    "revoked",  # it was good once: switched off, expired, or its account is closed
    "no_permission",  # it is good, and may not do this
    "no_credit",  # it is good, and its account cannot pay
    "not_this_provider",  # what answers there is not the provider, or not at this address
    "rate_limited",  # asked too often; says nothing about the key
    "provider_down",  # the provider answers, with an error of its own
    "unreachable",  # no such host, or nothing listens there
    "timeout",  # no answer within ten seconds
    "tls",  # no trustworthy encrypted connection
    "address_blocked",  # the address may not be called from here
    "untestable",  # there is no harmless question for this kind of credential
]

_VERDICTS: Final[frozenset[Outcome]] = frozenset(
    {"valid", "wrong_key", "revoked", "no_permission", "no_credit", "not_this_provider"}
)


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What the provider said of a key.

    Attributes:
        valid: The key can be used now.
        outcome: Why, for programs.
        message: Why, for people; never holds the key.
        details: What else the provider told: account, organisation, credit, headroom, models.
    """

    valid: bool
    outcome: Outcome
    message: str
    details: JsonObject = field(default_factory=dict[str, Json])

    @property
    def success(self) -> bool:
        """Whether the test could be made at all: the provider judged the key."""
        return self.outcome in _VERDICTS
