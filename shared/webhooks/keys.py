"""What the one webhook key makes: secrets of agents, tokens of waiting steps, and seals of their addresses.

Worker and webhook function derive the same from the same key, so neither asks the other, and the database, which holds
hashes of tokens only, can make none. The three are told apart by name and never by chance: one is of no use as another.

* The *secret* of an agent is what its owner configures at the sender, which signs with it.
* The *token* of a step proves to the database that an event comes by way of the webhook function. Nobody else sees it.
* The *seal* of an address shows that we gave it away: who can make a sender sign what he likes still has no address but
  those he was given.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import urlencode, urlsplit
from uuid import UUID

from shared.errors import Unauthenticated
from shared.settings import SettingsError

VARIABLE: Final = "RUNBASE_WEBHOOK_KEY"
KEY_BYTES: Final = 32
SEAL_CHARS: Final = 32
# Of the key that the local stack gives everybody (local/development.py): published, so it protects nothing.
LOCAL_KEY_SHA256: Final = "d0643d4bbf300cd43707c133140dfb0db894e0073008cd48d281212d4f1e417b"
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class Address:
    """The step that an event is for, and the agent whose secret signs it."""

    agent_id: UUID
    run_id: UUID
    step_no: int

    def __str__(self) -> str:
        return f"{self.agent_id}/{self.run_id}/{self.step_no}"


class WebhookKeys:
    """Derives everything from RUNBASE_WEBHOOK_KEY."""

    def __init__(self, key: bytes) -> None:
        if len(key) < KEY_BYTES:
            raise ValueError(f"a webhook key has at least {KEY_BYTES} bytes")
        self._key = key

    @classmethod
    def from_env(cls, environment: Mapping[str, str]) -> Self:
        """Read the key. There is no default: without it nothing is taken and nothing is awaited.

        Raises:
            SettingsError: it is missing or malformed, or is the local stack's while SUPABASE_URL is elsewhere.
        """
        value = environment.get(VARIABLE, "")
        if not value:
            raise SettingsError(f"{VARIABLE} is missing, and has no default.")
        try:
            key = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) < KEY_BYTES:
            raise SettingsError(f"{VARIABLE} is not {KEY_BYTES} or more bytes in base64.")
        is_local = urlsplit(environment.get("SUPABASE_URL", "")).hostname in _LOOPBACK
        if hashlib.sha256(key).hexdigest() == LOCAL_KEY_SHA256 and not is_local:
            raise SettingsError(f"{VARIABLE} is the local stack's, which is published. Make one of your own.")
        return cls(key)

    def secret(self, agent_id: UUID) -> str:
        """What an agent's sender signs with. The same as long as the key is."""
        return self._derived("flowise", str(agent_id))

    def token(self, address: Address) -> str:
        """What the delivery of the step's event must show to the database."""
        return self._derived("token", str(address))

    def token_hash(self, address: Address) -> str:
        """What an `Event` awaits: the token's SHA-256 as hex."""
        return hashlib.sha256(self.token(address).encode()).hexdigest()

    def callback_url(self, functions_url: str, address: Address) -> str:
        """Where a sender that signs as Runbase does posts the event. `functions_url` ends in `/functions/v1`."""
        query = {"agent_id": address.agent_id, "run_id": address.run_id, "step_no": address.step_no}
        return f"{functions_url}/flowise-webhook?{urlencode({**query, 'seal': self._seal(address)})}"

    def chat_id(self, address: Address) -> str:
        """The chatId under which a Flowise flow is called, for it comes back in the callback's body."""
        return f"{address.run_id}.{address.step_no}.{self._seal(address)}"

    def check_seal(self, address: Address, seal: str) -> None:
        """Check that we gave this address away.

        Raises:
            Unauthenticated: we did not.
        """
        if not hmac.compare_digest(self._seal(address).encode(), seal.encode()):
            raise Unauthenticated("The callback's address was not given away by this project")

    def _seal(self, address: Address) -> str:
        return self._derived("seal", str(address))[:SEAL_CHARS]

    def _derived(self, name: str, subject: str) -> str:
        return hmac.new(self._key, f"{name}:{subject}".encode(), hashlib.sha256).hexdigest()
