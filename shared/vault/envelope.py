"""Sealed secrets: each under a data key of its own, which a master key wraps.

    format 1 | key version 4 | length 2 | wrapped data key | salt 32 | commitment 32 | nonce 12 | ciphertext and tag

HKDF-SHA256 makes two keys of the data key, the salt and the binding: one encrypts (AES-256-GCM), the other is the
commitment. GCM alone lets somebody who knows two keys write a text that opens under both; the commitment fits one data
key only. The binding is associated data of both layers, and the key version of the wrapping. So each bit of a blob,
and each part of what it belongs to, is covered, and whatever is wrong is one and the same refusal.
"""

from __future__ import annotations

import hmac
import os
import struct
from dataclasses import dataclass, replace
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shared.vault.binding import Binding
from shared.vault.keys import KeyProvider
from shared.vault.refusal import sealed

FORMAT: Final = 1
DATA_KEY_BYTES: Final = 32
SALT_BYTES: Final = 32
COMMITMENT_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
MAX_BLOB_BYTES: Final = 65_536

_HEADER: Final = struct.Struct(">BIH")
_BODY_BYTES: Final = SALT_BYTES + COMMITMENT_BYTES + NONCE_BYTES + TAG_BYTES
_PURPOSE: Final = b"runbase vault 1"


async def seal(keys: KeyProvider, plain: bytes, binding: Binding) -> bytes:
    """Encrypt under the current master key. No two results are alike."""
    data_key, salt, nonce = os.urandom(DATA_KEY_BYTES), os.urandom(SALT_BYTES), os.urandom(NONCE_BYTES)
    key, commitment = _derived(data_key, salt, binding)
    ciphertext = AESGCM(key).encrypt(nonce, plain, binding.to_bytes())
    version = keys.current_version
    wrapped = await keys.wrap(data_key, version, binding)
    return _Blob(version, wrapped, salt, commitment, nonce + ciphertext).to_bytes()


async def open_sealed(keys: KeyProvider, blob: bytes, binding: Binding, *, floor: int = 0) -> bytes:
    """Decrypt what was sealed for this binding by a key that is not retired, of version `floor` or above.

    Raises:
        VaultSealed: it was not, whatever the reason.
        UpstreamBusy: the key service cannot be asked now.
    """
    parts = _Blob.from_bytes(blob, floor=floor)
    key, _ = await _opened(keys, parts, binding)
    nonce, ciphertext = parts.payload[:NONCE_BYTES], parts.payload[NONCE_BYTES:]
    try:
        return AESGCM(key).decrypt(nonce, ciphertext, binding.to_bytes())
    except InvalidTag:
        raise sealed() from None


async def rewrap(keys: KeyProvider, blob: bytes, binding: Binding, *, floor: int = 0) -> bytes:
    """Put the data key under the current master key. The secret itself is not decrypted.

    Raises:
        VaultSealed: the blob is not of this binding, or its key is gone or below version `floor`.
        UpstreamBusy: the key service cannot be asked now.
    """
    parts = _Blob.from_bytes(blob, floor=floor)
    _, data_key = await _opened(keys, parts, binding)
    version = keys.current_version
    return replace(parts, version=version, wrapped=await keys.wrap(data_key, version, binding)).to_bytes()


def version_of(blob: bytes) -> int:
    """The version of the master key that a blob says it is under.

    Raises:
        VaultSealed: it is no blob.
    """
    return _Blob.from_bytes(blob).version


@dataclass(frozen=True, slots=True)
class _Blob:
    version: int
    wrapped: bytes
    salt: bytes
    commitment: bytes
    payload: bytes

    @classmethod
    def from_bytes(cls, blob: bytes, *, floor: int = 0) -> _Blob:
        if not _HEADER.size + _BODY_BYTES <= len(blob) <= MAX_BLOB_BYTES:
            raise sealed()
        form, version, length = _HEADER.unpack_from(blob)
        body = blob[_HEADER.size + length :]
        if form != FORMAT or len(body) < _BODY_BYTES or version < floor:
            raise sealed()
        wrapped = blob[_HEADER.size : _HEADER.size + length]
        salt, rest = body[:SALT_BYTES], body[SALT_BYTES:]
        return cls(version, wrapped, salt, rest[:COMMITMENT_BYTES], rest[COMMITMENT_BYTES:])

    def to_bytes(self) -> bytes:
        header = _HEADER.pack(FORMAT, self.version, len(self.wrapped))
        return b"".join((header, self.wrapped, self.salt, self.commitment, self.payload))


async def _opened(keys: KeyProvider, parts: _Blob, binding: Binding) -> tuple[bytes, bytes]:
    """The key of the payload, and the data key that it is made of, once the commitment holds."""
    data_key = await keys.unwrap(parts.wrapped, parts.version, binding)
    key, commitment = _derived(data_key, parts.salt, binding)
    if not hmac.compare_digest(commitment, parts.commitment):
        raise sealed()
    return key, data_key


def _derived(data_key: bytes, salt: bytes, binding: Binding) -> tuple[bytes, bytes]:
    hkdf = HKDF(SHA256(), length=DATA_KEY_BYTES + COMMITMENT_BYTES, salt=salt, info=_PURPOSE + binding.to_bytes())
    derived = hkdf.derive(data_key)
    return derived[:DATA_KEY_BYTES], derived[DATA_KEY_BYTES:]
