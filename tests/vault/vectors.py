"""The envelope written a second time, from its description alone, to make and to check `vectors.json`.

`python -m tests.vault.vectors` writes the file anew; what it held before must still open.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any
from uuid import UUID

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

FILE = Path(__file__).with_name("vectors.json")


def blob_of(vector: dict[str, Any]) -> bytes:
    """Assemble a vector's envelope from its parts."""
    version, bound = vector["key_version"], _bound(vector)
    data_key, salt = bytes.fromhex(vector["data_key"]), bytes.fromhex(vector["salt"])
    wrapping_nonce, nonce = bytes.fromhex(vector["wrapping_nonce"]), bytes.fromhex(vector["nonce"])
    master = AESGCM(bytes.fromhex(vector["master_key"]))
    wrapped = wrapping_nonce + master.encrypt(
        wrapping_nonce, data_key, b"runbase wrap" + version.to_bytes(4, "big") + bound
    )
    derived = _hkdf(data_key, salt, b"runbase vault 1" + bound, 64)
    body = AESGCM(derived[:32]).encrypt(nonce, vector["plain"].encode(), bound)
    header = b"\x01" + version.to_bytes(4, "big") + len(wrapped).to_bytes(2, "big")
    return header + wrapped + salt + derived[32:] + nonce + body


def _bound(vector: dict[str, Any]) -> bytes:
    parts = [
        b"public.credentials",
        UUID(vector["account_id"]).bytes,
        UUID(vector["credential_id"]).bytes,
        vector["provider"].encode(),
    ]
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _hkdf(key: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869 with SHA-256, by its definition."""
    pseudo_random_key = hmac.digest(salt, key, "sha256")
    derived = block = b""
    for counter in range(1, length // 32 + 1):
        block = hmac.digest(pseudo_random_key, block + info + bytes([counter]), "sha256")
        derived += block
    return derived


def _made(number: int, provider: str, plain: str, version: int) -> dict[str, Any]:
    def some(what: str, size: int) -> str:
        return hashlib.sha512(f"vector {number} {what}".encode()).hexdigest()[: 2 * size]

    vector: dict[str, Any] = {
        "account_id": str(UUID(some("account", 16))),
        "credential_id": str(UUID(some("credential", 16))),
        "provider": provider,
        "plain": plain,
        "key_version": version,
        "master_key": some("master", 32),
        "data_key": some("data", 32),
        "salt": some("salt", 32),
        "wrapping_nonce": some("wrapping nonce", 12),
        "nonce": some("nonce", 12),
    }
    return {**vector, "blob": blob_of(vector).hex()}


if __name__ == "__main__":
    made = [
        _made(1, "openai", '{"api_key":"sk-vector-one"}', 1),
        _made(2, "flowise", '{"api_key":"vector-two","base_url":"https://flows.example.com"}', 2),
        _made(3, "http", '{"base_url":"https://api.example.com","headers":{"X-Key":"vektor-drei-äöü"}}', 2147483647),
        _made(4, "gemini", "", 7),
    ]
    FILE.write_text(json.dumps(made, indent=2, ensure_ascii=False) + "\n")
