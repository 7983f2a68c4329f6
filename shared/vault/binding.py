"""What a sealed secret belongs to. Sealed into it as associated data, so that it opens nowhere else."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final
from uuid import UUID

TABLE: Final = "public.credentials"  # where sealed secrets stand; another table's would not open as ours


@dataclass(frozen=True, slots=True)
class Binding:
    """One credential: its owner, itself and the provider that it is for."""

    account_id: UUID
    credential_id: UUID
    provider: str

    def to_bytes(self) -> bytes:
        """The parts, each behind its length, so that no two bindings read alike."""
        parts = (TABLE.encode(), self.account_id.bytes, self.credential_id.bytes, self.provider.encode())
        return b"".join(struct.pack(">I", len(part)) + part for part in parts)

    def to_context(self) -> dict[str, str]:
        """The same for a key service, whose log shows it."""
        return {
            "table": TABLE,
            "account_id": str(self.account_id),
            "credential_id": str(self.credential_id),
            "provider": self.provider,
        }
