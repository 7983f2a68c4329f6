"""Makes of what a person entered what the database keeps: an envelope, and what may be told of it."""

from __future__ import annotations

import base64

from shared.runs.models import Json
from shared.vault.binding import Binding
from shared.vault.envelope import seal
from shared.vault.marks import hash_of
from shared.vault.providers import Credential
from shared.vault.ring import KeyRing


async def sealed_secret(keys: KeyRing, entered: Credential, binding: Binding) -> dict[str, Json]:
    """Seal a credential's fields, as `create_credential` and `replace_credential` take them.

    Raises:
        UpstreamBusy: the key service cannot be asked now.
    """
    blob = await seal(keys, entered.to_sealed(), binding)
    return {
        "sealed": base64.b64encode(blob).decode(),
        "key_version": keys.current_version,
        "ticket_hash": hash_of(keys.marks.ticket(binding.credential_id)),
        "fingerprint": keys.marks.fingerprint(binding.provider, entered.model_dump(exclude_none=True)),
        "last_four": entered.last_four(),
    }
