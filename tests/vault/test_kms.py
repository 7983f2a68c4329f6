"""Master keys in AWS KMS: the binding is the encryption context, and KMS is not asked more than it must be."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import uuid4

import boto3
import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError
from moto import mock_aws

from shared.errors import UpstreamBusy, VaultSealed
from shared.vault.binding import Binding
from shared.vault.cache import MAX_KEYS, MAX_SECONDS, MAX_USES, CachedKeys
from shared.vault.envelope import open_sealed, rewrap, seal, version_of
from shared.vault.keys import LocalKeys
from shared.vault.kms import KmsKeys
from shared.vault.ring import keys_from_env

BINDING = Binding(uuid4(), uuid4(), "openai")
FINGERPRINT_KEY = base64.b64encode(bytes(32)).decode()


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    with mock_aws():
        yield boto3.client("kms")


@pytest.fixture
def key_id(aws: Any) -> str:
    return aws.create_key()["KeyMetadata"]["KeyId"]


async def test_what_is_sealed_with_kms_opens_for_its_binding_only(key_id: str):
    keys = KmsKeys({1: key_id})
    blob = await seal(keys, b"sk-plain", BINDING)

    assert await open_sealed(keys, blob, BINDING) == b"sk-plain"
    with pytest.raises(VaultSealed):
        await open_sealed(keys, blob, Binding(BINDING.account_id, uuid4(), "openai"))


async def test_each_bit_of_a_blob_is_covered_here_too(key_id: str):
    keys = KmsKeys({1: key_id})
    blob = await seal(keys, b"sk", BINDING)

    for place in range(0, len(blob) * 8, 7):
        flipped = bytearray(blob)
        flipped[place // 8] ^= 1 << place % 8
        with pytest.raises(VaultSealed):
            await open_sealed(keys, bytes(flipped), BINDING)


async def test_a_version_that_is_not_named_refuses(key_id: str):
    blob = await seal(KmsKeys({1: key_id}), b"sk-plain", BINDING)

    with pytest.raises(VaultSealed):
        await open_sealed(KmsKeys({2: key_id}), blob, BINDING)


async def test_from_local_keys_to_kms_by_rewrapping(key_id: str):
    local = {"ENCRYPTION_KEYS": f'{{"1": "{base64.b64encode(b"k" * 32).decode()}"}}'}
    blob = await seal(LocalKeys.from_env(local), b"sk-plain", BINDING)
    kms = {"RUNBASE_KMS_KEY_ID": f'{{"2": "{key_id}"}}', "RUNBASE_FINGERPRINT_KEY": FINGERPRINT_KEY}
    both, alone = keys_from_env({**local, **kms}), keys_from_env(kms)

    moved = await rewrap(both, blob, BINDING)

    assert version_of(moved) == 2
    assert await open_sealed(both, blob, BINDING) == b"sk-plain"
    assert await open_sealed(alone, moved, BINDING) == b"sk-plain"
    with pytest.raises(VaultSealed):
        await open_sealed(alone, blob, BINDING)


class FailingClient:
    """A KMS that fails in one way."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def encrypt(self, **_: object) -> Mapping[str, object]:
        raise self._error

    decrypt = encrypt


def refusal(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "m"}}, "Decrypt")


@pytest.mark.parametrize(
    "error",
    [refusal("ThrottlingException"), refusal("KMSInternalException"), ConnectTimeoutError(endpoint_url="https://kms")],
)
async def test_a_kms_that_is_away_or_busy_is_worth_another_try(error: Exception):
    keys = KmsKeys({1: "key"}, FailingClient(error))

    with pytest.raises(UpstreamBusy) as busy:
        await seal(keys, b"x", BINDING)
    assert busy.value.retryable
    with pytest.raises(UpstreamBusy):
        await keys.unwrap(b"x", 1, BINDING)


@pytest.mark.parametrize(
    "code", ["AccessDeniedException", "DisabledException", "IncorrectKeyException", "InvalidCiphertextException"]
)
async def test_a_key_that_kms_does_not_give_is_the_vaults_one_refusal(code: str):
    keys = KmsKeys({1: "key"}, FailingClient(refusal(code)))

    with pytest.raises(VaultSealed, match="cannot be opened"):
        await keys.unwrap(b"x", 1, BINDING)


class CountedKeys(LocalKeys):
    """Local keys that count what they unwrap."""

    unwrapped = 0

    async def unwrap(self, wrapped: bytes, version: int, binding: Binding) -> bytes:
        self.unwrapped += 1
        return await super().unwrap(wrapped, version, binding)


class Clock:
    """A time that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_a_data_key_is_remembered_for_a_thousand_uses():
    counted = CountedKeys({1: b"k" * 32})
    keys = CachedKeys(counted, now=Clock())
    wrapped = await keys.wrap(b"d" * 32, 1, BINDING)

    for _ in range(MAX_USES):
        assert await keys.unwrap(wrapped, 1, BINDING) == b"d" * 32
    assert counted.unwrapped == 1
    await keys.unwrap(wrapped, 1, BINDING)
    assert counted.unwrapped == 2
    assert (keys.current_version, keys.versions) == (1, {1})


async def test_a_data_key_is_forgotten_after_five_minutes():
    counted, clock = CountedKeys({1: b"k" * 32}), Clock()
    keys = CachedKeys(counted, now=clock)
    wrapped = await keys.wrap(b"d" * 32, 1, BINDING)
    await keys.unwrap(wrapped, 1, BINDING)

    clock.now = MAX_SECONDS - 1
    await keys.unwrap(wrapped, 1, BINDING)
    assert counted.unwrapped == 1
    clock.now = MAX_SECONDS
    await keys.unwrap(wrapped, 1, BINDING)
    assert counted.unwrapped == 2


@pytest.mark.parametrize("moved", ["now", "wall"])
async def test_a_data_key_is_forgotten_by_whichever_clock_comes_first(moved: str):
    counted, clocks = CountedKeys({1: b"k" * 32}), {"now": Clock(), "wall": Clock()}
    keys = CachedKeys(counted, **clocks)
    wrapped = await keys.wrap(b"d" * 32, 1, BINDING)
    await keys.unwrap(wrapped, 1, BINDING)

    clocks[moved].now = MAX_SECONDS  # a machine that sleeps stops its monotonic clock; somebody sets the other one
    await keys.unwrap(wrapped, 1, BINDING)

    assert counted.unwrapped == 2


async def test_a_wall_clock_set_back_does_not_lengthen_a_data_keys_life():
    counted, now, wall = CountedKeys({1: b"k" * 32}), Clock(), Clock()
    keys = CachedKeys(counted, now=now, wall=wall)
    wrapped = await keys.wrap(b"d" * 32, 1, BINDING)
    await keys.unwrap(wrapped, 1, BINDING)

    wall.now = -1000.0
    await keys.unwrap(wrapped, 1, BINDING)

    assert counted.unwrapped == 2


async def test_an_idle_process_forgets_its_data_keys(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shared.vault.cache.MAX_SECONDS", 0.05)
    keys = CachedKeys(LocalKeys({1: b"k" * 32}))
    await keys.unwrap(await keys.wrap(b"d" * 32, 1, BINDING), 1, BINDING)
    assert len(keys) == 1

    await until_empty(keys)

    assert len(keys) == 0


def test_data_keys_are_forgotten_also_where_each_call_has_a_loop_of_its_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shared.vault.cache.MAX_SECONDS", 0.05)
    keys = CachedKeys(LocalKeys({1: b"k" * 32}))
    wrapped = asyncio.run(keys.wrap(b"d" * 32, 1, BINDING))
    asyncio.run(keys.unwrap(wrapped, 1, BINDING))

    asyncio.run(until_empty(keys))

    assert len(keys) == 0


async def until_empty(keys: CachedKeys) -> None:
    async with asyncio.timeout(10):
        while len(keys):  # noqa: ASYNC110 - a thread forgets them
            await asyncio.sleep(0)


async def test_what_is_remembered_serves_its_own_binding_only():
    keys = CachedKeys(LocalKeys({1: b"k" * 32}))
    wrapped = await keys.wrap(b"d" * 32, 1, BINDING)
    await keys.unwrap(wrapped, 1, BINDING)

    with pytest.raises(VaultSealed):
        await keys.unwrap(wrapped, 1, Binding(uuid4(), BINDING.credential_id, "openai"))
    with pytest.raises(VaultSealed):
        await keys.unwrap(wrapped, 2, BINDING)


async def test_no_more_data_keys_are_remembered_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shared.vault.cache.MAX_KEYS", 2)
    counted = CountedKeys({1: b"k" * 32})
    keys = CachedKeys(counted)
    wrapped = [await keys.wrap(b"d" * 32, 1, BINDING) for _ in range(3)]

    for one in [*wrapped, wrapped[2], wrapped[0]]:
        await keys.unwrap(one, 1, BINDING)

    assert counted.unwrapped == 4
    assert MAX_KEYS > 1000
