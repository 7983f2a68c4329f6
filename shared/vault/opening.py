"""Opens a credential for one step, or for a test, and closes it again.

The database hands out what is sealed only to who holds the run's lease and performs the step, and writes the opening
down with it. The values live as long as the `async with` around them: afterwards the credential is empty.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import cast
from uuid import UUID

from shared.database import Database
from shared.errors import VaultSealed
from shared.logs import Log
from shared.runs.models import Json, JsonObject
from shared.vault.binding import Binding
from shared.vault.envelope import open_sealed
from shared.vault.keys import KeyProvider
from shared.vault.providers import from_sealed
from shared.vault.refusal import sealed
from shared.vault.ring import KeyRing
from shared.vault.secret import Secret

_log = Log(__name__)


@dataclass(frozen=True, slots=True)
class OpenCredential:
    """A credential in plain form, for one step.

    Attributes:
        fields: What the person entered, by the provider's field names, such as `api_key` and `base_url`; `headers` as
            a JSON object in text.
        allowed_hosts: The only places that the values may be sent to, as an egress policy names them.
        secrets: What must be shown nowhere: every secret part of the fields, in each form that it is used in.
        managed: The agent brought it, not who runs the agent: it goes nowhere that the run has named.
    """

    provider: str
    credential_id: UUID
    fields: Mapping[str, Secret] = field(repr=False)
    allowed_hosts: frozenset[str]
    secrets: tuple[Secret, ...] = field(default=(), repr=False)
    managed: bool = False


class Vault:
    """Opens credentials for the steps of a worker."""

    def __init__(self, database: Database, keys: KeyProvider) -> None:
        """`database` acts as service_role."""
        self._database = database
        self._keys = keys

    @asynccontextmanager
    async def open(
        self, *, run_id: UUID, lease_id: UUID, step_no: int, attempt: int, provider: str
    ) -> AsyncGenerator[OpenCredential]:
        """Open what this step may use towards a provider: the run's own, or the one its agent brings.

        Raises:
            NotFound: the run has none, or it was deleted.
            LeaseLost: the step is not performed under this lease.
            VaultSealed: it cannot be opened; the log tells which.
            UpstreamBusy: the key service cannot be asked now.
            DatabaseUnavailable: no answer; the opening may have been written down.
        """
        arguments: dict[str, Json] = {
            "p_run_id": str(run_id),
            "p_lease_id": str(lease_id),
            "p_step_no": step_no,
            "p_attempt": attempt,
            "p_provider": provider,
        }
        answer = cast("JsonObject", await self._database.call("open_credential", arguments))
        async with _opened(self._keys, answer) as credential:
            yield credential


@asynccontextmanager
async def open_to_test(database: Database, keys: KeyRing, credential_id: UUID) -> AsyncGenerator[OpenCredential]:
    """Open a credential for a person who may change it, to test it. `database` acts as that person.

    Raises:
        NotFound: there is none that the person may see.
        Forbidden: the person may only use it.
        VaultSealed: it cannot be opened.
        UpstreamBusy: the key service cannot be asked now.
    """
    arguments: dict[str, Json] = {
        "p_credential_id": str(credential_id),
        "p_tickets": cast("Json", keys.marks.tickets(credential_id)),
    }
    answer = cast("JsonObject", await database.call("open_credential_to_test", arguments))
    async with _opened(keys, answer) as credential:
        yield credential


async def record_test(
    database: Database, keys: KeyRing, credential_id: UUID, *, valid: bool, outcome: str, message: str
) -> None:
    """Keep the result of a credential's last test; `database` acts as who tested.

    Raises:
        NotFound, Forbidden: as `open_to_test`.
    """
    arguments: dict[str, Json] = {
        "p_credential_id": str(credential_id),
        "p_tickets": cast("Json", keys.marks.tickets(credential_id)),
        "p_test": {"valid": valid, "outcome": outcome, "message": message[:1000]},
    }
    await database.call("record_credential_test", arguments)


@asynccontextmanager
async def _opened(keys: KeyProvider, answer: JsonObject) -> AsyncGenerator[OpenCredential]:
    provider, credential_id = cast("str", answer["provider"]), UUID(cast("str", answer["credential_id"]))
    binding = Binding(UUID(cast("str", answer["account_id"])), credential_id, provider)
    try:
        blob = _decoded(cast("str", answer["sealed"]))
        plain = await open_sealed(keys, blob, binding, floor=cast("int", answer["min_key_version"]))
        entered = from_sealed(provider, plain)
    except VaultSealed:
        _log.error("vault.sealed", credential_id=str(credential_id), provider=provider)
        raise
    fields = entered.to_fields()
    secrets = tuple(map(Secret, entered.secrets()))
    hosts = entered.allowed_hosts()
    del plain, entered
    try:
        managed = answer.get("managed") is True
        yield OpenCredential(provider, credential_id, MappingProxyType(fields), hosts, secrets, managed)
    finally:
        fields.clear()


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise sealed() from None
