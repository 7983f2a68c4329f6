"""Moves secrets to the current master key, a batch at a time, beside everything else that goes on.

Only the wrapping of each data key is made anew: no secret is decrypted. Each batch is one transaction that takes a row
only if it is still as it was read, so a person who replaces or deletes a credential meanwhile wins, the work may be
killed at any moment, and two at once do no harm. What does not open stays as it is, and is told.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import cast
from uuid import UUID

from shared.database import Database
from shared.errors import VaultSealed
from shared.logs import Log
from shared.runs.models import Json, JsonObject
from shared.vault.binding import Binding
from shared.vault.envelope import rewrap
from shared.vault.marks import hash_of
from shared.vault.ring import KeyRing

_log = Log(__name__)


@dataclass(frozen=True, slots=True)
class Rewrapped:
    """What became of one batch.

    Attributes:
        moved: Secrets that are under the current key now.
        changed: Those that somebody replaced or deleted meanwhile.
        sealed: Those that no key of ours opens.
    """

    moved: int
    changed: int
    sealed: int


async def rewrap_all(database: Database, keys: KeyRing, *, batch: int = 100) -> AsyncGenerator[Rewrapped]:
    """Rewrap everything that is under an older key than the current one; one result for each batch of at most 500.

    Raises:
        UpstreamBusy: the key service cannot be asked now; go on by calling again.
        DatabaseUnavailable: likewise.
    """
    after: Json = None
    while True:
        arguments: dict[str, Json] = {"p_below": keys.current_version, "p_after": after, "p_limit": batch}
        rows = cast("list[JsonObject]", await database.call("credentials_to_rewrap", arguments))
        if not rows:
            return
        items: list[Json] = [item for row in rows if (item := await _rewrapped(keys, row)) is not None]
        moved = cast("int", await database.call("rewrap_credentials", {"p_items": items})) if items else 0
        yield Rewrapped(moved, len(items) - moved, len(rows) - len(items))
        after = rows[-1]["id"]


async def _rewrapped(keys: KeyRing, row: JsonObject) -> JsonObject | None:
    credential_id, before = UUID(cast("str", row["id"])), cast("str", row["sealed"])
    binding = Binding(UUID(cast("str", row["account_id"])), credential_id, cast("str", row["provider"]))
    try:
        floor = cast("int", row["min_key_version"])  # what a retired key sealed stays refused
        blob = await rewrap(keys, base64.b64decode(before, validate=True), binding, floor=floor)
    except (VaultSealed, binascii.Error):
        _log.error("vault.sealed", credential_id=str(credential_id), provider=binding.provider)
        return None
    return {
        "id": str(credential_id),
        "before": before,
        "sealed": base64.b64encode(blob).decode(),
        "ticket_hash": hash_of(keys.marks.ticket(credential_id)),
        "key_version": keys.current_version,
    }
