"""Master keys in AWS KMS: a data key is wrapped and unwrapped there, and the master key is seen by nobody.

The binding is the encryption context, so KMS refuses another credential's data key by itself, and its log (CloudTrail)
says which credential was opened. Needs the package's extra `aws` and the permissions kms:Encrypt and kms:Decrypt; a
function that only stores credentials needs the first alone.
"""

# ruff: noqa: N803 - the names of AWS's parameters

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, Protocol, cast

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from shared.errors import AppError, UpstreamBusy
from shared.logs import Log
from shared.vault.binding import Binding
from shared.vault.refusal import sealed

_CONFIG: Final = Config(connect_timeout=2, read_timeout=3, retries={"mode": "standard", "total_max_attempts": 3})
# What KMS says of a key or a text that another try will not change; everything else may pass.
_FINAL: Final = frozenset(
    {
        "AccessDeniedException",
        "DisabledException",
        "IncorrectKeyException",
        "InvalidCiphertextException",
        "InvalidKeyUsageException",
        "KMSInvalidStateException",
        "NotFoundException",
        "ValidationException",
    }
)

_log = Log(__name__)


class KmsClient(Protocol):
    """What we use of boto3's client, which has no types of its own. Its methods block."""

    def encrypt(
        self, *, KeyId: str, Plaintext: bytes, EncryptionContext: Mapping[str, str]
    ) -> Mapping[str, object]: ...

    def decrypt(
        self, *, KeyId: str, CiphertextBlob: bytes, EncryptionContext: Mapping[str, str]
    ) -> Mapping[str, object]: ...


class KmsKeys:
    """KMS keys by version; each names one by id, ARN or alias."""

    def __init__(self, key_ids: Mapping[int, str], client: KmsClient | None = None) -> None:
        """`client` is by default boto3's, which finds region and credentials as all of AWS's tools do."""
        self._key_ids = dict(key_ids)
        self._client = client or cast("KmsClient", boto3.client("kms", config=_CONFIG))  # pyright: ignore[reportUnknownMemberType]

    @property
    def current_version(self) -> int:
        return max(self._key_ids)

    @property
    def versions(self) -> frozenset[int]:
        return frozenset(self._key_ids)

    async def wrap(self, data_key: bytes, version: int, binding: Binding) -> bytes:
        key_id, context = self._key_id(version), _context(version, binding)

        def encrypt() -> Mapping[str, object]:
            return self._client.encrypt(KeyId=key_id, Plaintext=data_key, EncryptionContext=context)

        try:
            answer = await asyncio.to_thread(encrypt)
        except (ClientError, BotoCoreError) as error:
            raise _refusal(error, "encrypt", version) from None
        return cast("bytes", answer["CiphertextBlob"])

    async def unwrap(self, wrapped: bytes, version: int, binding: Binding) -> bytes:
        key_id, context = self._key_id(version), _context(version, binding)

        def decrypt() -> Mapping[str, object]:
            return self._client.decrypt(KeyId=key_id, CiphertextBlob=wrapped, EncryptionContext=context)

        try:
            answer = await asyncio.to_thread(decrypt)
        except (ClientError, BotoCoreError) as error:
            raise _refusal(error, "decrypt", version) from None
        return cast("bytes", answer["Plaintext"])

    def _key_id(self, version: int) -> str:
        key_id = self._key_ids.get(version)
        if key_id is None:
            raise sealed()
        return key_id


def _context(version: int, binding: Binding) -> dict[str, str]:
    return {**binding.to_context(), "key_version": str(version)}


def _refusal(error: ClientError | BotoCoreError, action: str, version: int) -> AppError:
    code = type(error).__name__
    if isinstance(error, ClientError):
        response = cast("Mapping[str, Mapping[str, object]]", error.response)  # pyright: ignore[reportUnknownMemberType]
        code = str(response.get("Error", {}).get("Code", code))
    _log.warning("vault.kms_failed", action=action, key_version=version, code=code)
    if code in _FINAL:
        return sealed()
    return UpstreamBusy("The key service does not answer", details=code)
