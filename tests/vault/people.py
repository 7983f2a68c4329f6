"""Credentials as the function leaves them, and steps that may open them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from shared.runs.models import RunId
from shared.runs.status import RunStatus
from shared.runs.store import RunStore
from shared.runs.transitions import Advance, StartStep
from shared.vault import providers
from shared.vault.binding import Binding
from shared.vault.keys import LocalKeys
from shared.vault.marks import Marks
from shared.vault.ring import KeyRing
from shared.vault.sealing import sealed_secret
from tests.runs.engines import steps
from tests.support.canaries import canary
from tests.support.runs import Person, claim


def ring(*versions: int) -> KeyRing:
    """Keys of these versions; a version has the same key in every ring."""
    keys = {version: hashlib.sha256(b"test key %d" % version).digest() for version in versions}
    return KeyRing([LocalKeys(keys)], Marks([keys[version] for version in sorted(keys, reverse=True)]))


async def sealed(keys: KeyRing, binding: Binding, **fields: Any) -> dict[str, Any]:
    """What the function hands to the database."""
    entered = providers.parse(binding.provider, fields or {"api_key": canary()})
    return await sealed_secret(keys, entered, binding)


async def add_credential(
    person: Person, keys: KeyRing, provider: str = "openai", *, account_id: UUID | None = None, **fields: Any
) -> UUID:
    """Add a credential as the function does."""
    binding = Binding(account_id or person.id, uuid4(), provider)
    credential = {
        **await sealed(keys, binding, **fields),
        "id": str(binding.credential_id),
        "account_id": str(binding.account_id),
        "provider": provider,
        "name": "Mine",
    }
    await person.call("create_credential", json.dumps(credential))
    return binding.credential_id


@dataclass(frozen=True)
class HeldStep:
    """A step that a worker performs."""

    run_id: RunId
    lease_id: UUID
    revision: int
    step_no: int = 1
    attempt: int = 1

    def towards(self, provider: str = "openai") -> dict[str, Any]:
        """What `Vault.open` asks for."""
        return {
            "run_id": self.run_id,
            "lease_id": self.lease_id,
            "step_no": self.step_no,
            "attempt": self.attempt,
            "provider": provider,
        }


async def held_step(store: RunStore, person: Person, credentials: dict[str, UUID], **request: object) -> HeldStep:
    """A run with these credentials whose first step is performed."""
    named = {provider: str(credential_id) for provider, credential_id in credentials.items()}
    run_id = await person.queue(credentials=named, **request)
    view = next(view for view in (await claim(store)).views if view.run.id == run_id)
    assert view.run.lease_id is not None
    start = Advance(
        run_id,
        view.run.lease_id,
        view.run.revision,
        start=(StartStep(1, uuid4(), steps(1)[0]),),
        status=RunStatus.EXECUTING,
    )
    started = (await store.advance([start], lease_seconds=15))[run_id]
    assert started.won
    return HeldStep(run_id, view.run.lease_id, started.revision)
