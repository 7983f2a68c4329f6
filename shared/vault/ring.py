"""All keys of a deployment, as its environment names them: local ones, those of AWS KMS, or both while moving over.

    ENCRYPTION_KEYS           {"1": "<32 bytes, base64>", ...}, or ENCRYPTION_KEY, which is version 1
    RUNBASE_KMS_KEY_ID        {"2": "<id, ARN or alias>", ...}, or one, which is version 1
    RUNBASE_FINGERPRINT_KEY   32 bytes, base64: for fingerprints and tickets; needed where KMS has the keys

A version stands in one of them only; the highest of all is the current one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

from shared.settings import SettingsError
from shared.vault.binding import Binding
from shared.vault.cache import CachedKeys
from shared.vault.keys import KeyProvider, LocalKeys, key_bytes, local_keys, versioned
from shared.vault.marks import Marks
from shared.vault.refusal import sealed

VARIABLES: Final = (
    "SUPABASE_URL",
    "ENCRYPTION_KEYS",
    "ENCRYPTION_KEY",
    "RUNBASE_KMS_KEY_ID",
    "RUNBASE_FINGERPRINT_KEY",
)


class KeyRing:
    """Hands each version to the provider that has it."""

    def __init__(self, providers: Sequence[KeyProvider], marks: Marks) -> None:
        self._by_version = {version: provider for provider in providers for version in provider.versions}
        self._current = max(self._by_version)
        self.marks = marks

    @property
    def current_version(self) -> int:
        return self._current

    @property
    def versions(self) -> frozenset[int]:
        return frozenset(self._by_version)

    async def wrap(self, data_key: bytes, version: int, binding: Binding) -> bytes:
        return await self._provider(version).wrap(data_key, version, binding)

    async def unwrap(self, wrapped: bytes, version: int, binding: Binding) -> bytes:
        return await self._provider(version).unwrap(wrapped, version, binding)

    def _provider(self, version: int) -> KeyProvider:
        provider = self._by_version.get(version)
        if provider is None:
            raise sealed()
        return provider


def keys_from_env(environment: Mapping[str, str]) -> KeyRing:
    """Make the key ring that the environment describes. Nothing is asked of KMS yet.

    Raises:
        SettingsError: there is no key, or a variable is malformed; the message names it.
    """
    local, kms = local_keys(environment), _kms_ids(environment)
    if both := sorted(local.keys() & kms.keys()):
        raise SettingsError(f"Key version {both[0]} stands in ENCRYPTION_KEYS and in RUNBASE_KMS_KEY_ID.")
    if not local and not kms:
        raise SettingsError("ENCRYPTION_KEYS is missing, and has no default (nor is RUNBASE_KMS_KEY_ID given).")
    marking = [local[version] for version in sorted(local, reverse=True)]
    if own := environment.get("RUNBASE_FINGERPRINT_KEY"):
        marking.insert(0, key_bytes("RUNBASE_FINGERPRINT_KEY", own))
    elif kms:
        raise SettingsError("RUNBASE_FINGERPRINT_KEY is missing, and has no default where KMS has the keys.")
    providers: list[KeyProvider] = [LocalKeys(local)] if local else []
    if kms:
        providers.append(_kms(kms))
    return KeyRing(providers, Marks(marking))


def current_keys() -> KeyRing:
    """The process's key ring. Made once, for it remembers what KMS unwrapped; again only if a variable has changed.

    Raises:
        SettingsError: as `keys_from_env`.
    """
    return _made(tuple(os.environ.get(name, "") for name in VARIABLES))


@lru_cache(maxsize=2)
def _made(values: tuple[str, ...]) -> KeyRing:
    return keys_from_env(dict(zip(VARIABLES, values, strict=True)))


def _kms_ids(environment: Mapping[str, str]) -> dict[int, str]:
    text = environment.get("RUNBASE_KMS_KEY_ID", "").strip()
    if not text:
        return {}
    return versioned("RUNBASE_KMS_KEY_ID", text) if text.startswith("{") else {1: text}


def _kms(key_ids: Mapping[int, str]) -> KeyProvider:
    try:
        from shared.vault.kms import KmsKeys  # noqa: PLC0415 - boto3 is an extra, and slow to import
    except ModuleNotFoundError as error:
        raise SettingsError("RUNBASE_KMS_KEY_ID needs the package boto3: pip install 'runbase[aws]'.") from error
    return CachedKeys(KmsKeys(key_ids))
