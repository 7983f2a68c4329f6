"""What is told of a secret without telling it, by keys that only functions and workers have.

A *fingerprint* is the same for the same fields, so that a repeat can be seen, and cannot be guessed without the key.
A *ticket* shows the database that the caller holds the keys: it hands a sealed secret to nobody else, not even to the
user whose it is. The database keeps a ticket's hash.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

import orjson
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shared.vault.keys import KEY_BYTES

FINGERPRINT_BYTES: Final = 16


class Marks:
    """Makes fingerprints and tickets."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        """`keys`, the current one first; the others still make the tickets that they once made."""
        self._fingerprint_key = _derived(keys[0], b"fingerprint")
        self._ticket_keys = [_derived(key, b"ticket") for key in keys]

    def fingerprint(self, provider: str, fields: Mapping[str, object]) -> str:
        """32 hexadecimal digits for these fields of this provider, whatever their order."""
        told = orjson.dumps([provider, fields], option=orjson.OPT_SORT_KEYS)
        return hmac.digest(self._fingerprint_key, told, "sha256")[:FINGERPRINT_BYTES].hex()

    def ticket(self, credential_id: UUID) -> str:
        """The credential's ticket by the current key."""
        return self.tickets(credential_id)[0]

    def tickets(self, credential_id: UUID) -> list[str]:
        """The credential's ticket by each key, the current one first."""
        return [hmac.digest(key, credential_id.bytes, "sha256").hex() for key in self._ticket_keys]


def hash_of(ticket: str) -> str:
    """What the database keeps of a ticket."""
    return hashlib.sha256(ticket.encode()).hexdigest()


def _derived(key: bytes, purpose: bytes) -> bytes:
    return HKDF(SHA256(), length=KEY_BYTES, salt=None, info=b"runbase " + purpose).derive(key)
