"""Master keys: what wraps the data key of each secret, by version.

A key never leaves its provider. The highest version is the current one and wraps everything new; the others only
unwrap, until `runbase vault rewrap` has moved what they wrapped and they are taken away.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Mapping
from typing import Final, Protocol, cast
from urllib.parse import urlsplit

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shared.egress.surroundings import is_loopback
from shared.settings import SettingsError
from shared.vault.binding import Binding
from shared.vault.refusal import sealed

KEY_BYTES: Final = 32
MAX_VERSION: Final = 2**31 - 1  # as the database's integer
NONCE_BYTES: Final = 12

# Of the key that the local stack gives everybody (local/development.py): published, so it protects nothing.
LOCAL_KEY_SHA256: Final = "8fd741fc4ad286031bede6169ef3abe7caa4b235e6928556d1809b5d161815f9"


class KeyProvider(Protocol):
    """Wraps and unwraps data keys."""

    @property
    def current_version(self) -> int:
        """The version that new secrets are sealed under."""
        ...

    @property
    def versions(self) -> frozenset[int]:
        """Every version that can still be unwrapped."""
        ...

    async def wrap(self, data_key: bytes, version: int, binding: Binding) -> bytes:
        """Encrypt a data key for one credential.

        Raises:
            VaultSealed: there is no such version.
            UpstreamBusy: the key service cannot be asked now.
        """
        ...

    async def unwrap(self, wrapped: bytes, version: int, binding: Binding) -> bytes:
        """Decrypt a data key that was wrapped by this version for this credential.

        Raises:
            VaultSealed: it was not, or there is no such version.
            UpstreamBusy: the key service cannot be asked now.
        """
        ...


class LocalKeys:
    """Keys of 32 bytes from the environment, in this process's memory."""

    def __init__(self, keys: Mapping[int, bytes]) -> None:
        """`keys` by version, from 1 up; at least one."""
        self._ciphers = {version: AESGCM(key) for version, key in keys.items()}
        self._current = max(keys)

    @classmethod
    def from_env(cls, environment: Mapping[str, str]) -> LocalKeys:
        """Read ENCRYPTION_KEYS, `{"1": "<base64 of 32 bytes>", ...}`, or ENCRYPTION_KEY, which is version 1.

        Raises:
            SettingsError: there is none, one is malformed, or it is the local stack's while SUPABASE_URL is elsewhere.
        """
        keys = local_keys(environment)
        if not keys:
            raise SettingsError("ENCRYPTION_KEYS is missing, and has no default.")
        return cls(keys)

    @property
    def current_version(self) -> int:
        return self._current

    @property
    def versions(self) -> frozenset[int]:
        return frozenset(self._ciphers)

    async def wrap(self, data_key: bytes, version: int, binding: Binding) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher(version).encrypt(nonce, data_key, _associated(version, binding))

    async def unwrap(self, wrapped: bytes, version: int, binding: Binding) -> bytes:
        nonce, ciphertext = wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:]
        try:
            return self._cipher(version).decrypt(nonce, ciphertext, _associated(version, binding))
        except (InvalidTag, ValueError):  # ValueError: too short to hold a nonce
            raise sealed() from None

    def _cipher(self, version: int) -> AESGCM:
        cipher = self._ciphers.get(version)
        if cipher is None:
            raise sealed()
        return cipher


def local_keys(environment: Mapping[str, str]) -> dict[int, bytes]:
    """The keys that ENCRYPTION_KEYS or ENCRYPTION_KEY hold, by version; {} when neither is there.

    Raises:
        SettingsError: both are there, one is malformed, or one is the local stack's while SUPABASE_URL is elsewhere.
    """
    named, single = environment.get("ENCRYPTION_KEYS"), environment.get("ENCRYPTION_KEY")
    if named and single:
        raise SettingsError("ENCRYPTION_KEYS and ENCRYPTION_KEY are both given; one of them is enough.")
    if single:
        keys = {1: key_bytes("ENCRYPTION_KEY", single)}
    else:
        texts = versioned("ENCRYPTION_KEYS", named) if named else {}
        keys = {version: key_bytes("ENCRYPTION_KEYS", text) for version, text in texts.items()}
    if len(set(keys.values())) < len(keys):
        raise SettingsError("ENCRYPTION_KEYS has one key under two versions.")
    here = is_loopback(urlsplit(environment.get("SUPABASE_URL", "")).hostname or "")
    if not here and any(_fingerprint(key) == LOCAL_KEY_SHA256 for key in keys.values()):
        raise SettingsError("ENCRYPTION_KEYS holds the local stack's key, which everybody knows: make one of your own.")
    return keys


def versioned(name: str, text: str) -> dict[int, str]:
    """Read `{"1": "...", "2": "..."}`: something by key version.

    Raises:
        SettingsError: it is anything else.
    """
    shape = f'{name} must map versions from 1 up to keys, as {{"1": "..."}}.'
    try:
        parsed: object = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise SettingsError(shape) from None
    if not isinstance(parsed, dict) or not parsed:
        raise SettingsError(shape)
    found: dict[int, str] = {}
    for version, value in cast("dict[str, object]", parsed).items():
        if not (version.isascii() and version.isdecimal() and len(version) <= 10 and isinstance(value, str) and value):
            raise SettingsError(shape)
        if not 1 <= int(version) <= MAX_VERSION or str(int(version)) != version:
            raise SettingsError(shape)
        found[int(version)] = value
    return found


def key_bytes(name: str, text: str) -> bytes:
    """Read a key of 32 bytes in base64.

    Raises:
        SettingsError: it is anything else.
    """
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise SettingsError(f"{name} must hold {KEY_BYTES} random bytes in base64: openssl rand -base64 {KEY_BYTES}")
    return key


def _associated(version: int, binding: Binding) -> bytes:
    return b"runbase wrap" + version.to_bytes(4, "big") + binding.to_bytes()


def _fingerprint(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()
