"""What is sealed opens for its own binding and key only, and every other blob is refused alike."""

from __future__ import annotations

import base64
import os
from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import VaultSealed
from shared.vault.binding import Binding
from shared.vault.envelope import MAX_BLOB_BYTES, open_sealed, rewrap, seal, version_of
from shared.vault.keys import LocalKeys
from shared.vault.refusal import sealed

OLD, NEW = os.urandom(32), os.urandom(32)
BINDING = Binding(uuid4(), uuid4(), "openai")
REFUSAL = (str(sealed()), sealed().details, sealed().hint)


@pytest.fixture
def keys() -> LocalKeys:
    return LocalKeys({1: OLD})


async def refused(keys: LocalKeys, blob: bytes, binding: Binding = BINDING, *, floor: int = 0) -> bool:
    """Whether the blob is refused, in the one way that says nothing."""
    with pytest.raises(VaultSealed) as refusal:
        await open_sealed(keys, blob, binding, floor=floor)
    assert (str(refusal.value), refusal.value.details, refusal.value.hint) == REFUSAL
    assert refusal.value.__cause__ is None
    return True


@given(plain=st.binary(max_size=4096), provider=st.text(max_size=40), account=st.uuids(), credential=st.uuids())
async def test_what_is_sealed_opens_as_it_was(plain: bytes, provider: str, account: UUID, credential: UUID):
    keys, binding = LocalKeys({7: OLD}), Binding(account, credential, provider)

    assert await open_sealed(keys, await seal(keys, plain, binding), binding) == plain


async def test_each_bit_of_a_blob_is_covered(keys):
    blob = await seal(keys, b"sk-plain", BINDING)

    for bit in range(len(blob) * 8):
        flipped = bytearray(blob)
        flipped[bit // 8] ^= 1 << bit % 8
        assert await refused(keys, bytes(flipped))


async def test_a_blob_cut_anywhere_or_made_longer_is_refused(keys):
    blob = await seal(keys, b"sk-plain", BINDING)

    for length in range(len(blob)):
        assert await refused(keys, blob[:length])
        assert await refused(keys, blob[length + 1 :])
    assert await refused(keys, blob + b"\0")
    assert await refused(keys, b"\0" * (MAX_BLOB_BYTES + 1))


@given(st.binary(max_size=400))
async def test_arbitrary_bytes_are_refused(blob: bytes):
    assert await refused(LocalKeys({1: OLD}), blob)


@pytest.mark.parametrize(
    "other",
    [
        replace(BINDING, account_id=uuid4()),
        replace(BINDING, credential_id=uuid4()),
        replace(BINDING, provider="deepseek"),
        replace(BINDING, provider=""),
        Binding(BINDING.credential_id, BINDING.account_id, BINDING.provider),
    ],
)
async def test_a_blob_opens_for_no_other_owner_row_or_provider(keys, other):
    blob = await seal(keys, b"sk-plain", BINDING)

    assert await refused(keys, blob, other)
    with pytest.raises(VaultSealed):
        await rewrap(keys, blob, other)


async def test_a_blob_of_an_unknown_or_another_key_is_refused(keys):
    blob = await seal(keys, b"sk-plain", BINDING)

    assert await refused(LocalKeys({2: OLD}), blob)
    assert await refused(LocalKeys({1: NEW}), blob)


async def test_a_blob_under_a_version_below_the_floor_is_refused(keys):
    blob = await seal(keys, b"sk-plain", BINDING)

    assert await open_sealed(keys, blob, BINDING, floor=1) == b"sk-plain"
    assert await refused(keys, blob, floor=2)


async def test_the_parts_of_two_blobs_do_not_fit_together(keys):
    one, two = await seal(keys, b"sk-one", BINDING), await seal(keys, b"sk-two", BINDING)
    seams = [7, 19, 67, 99, 131, 143]  # header, nonce, wrapped data key, salt, commitment, nonce

    for begin, end in zip([0, *seams], [*seams, len(one)], strict=True):
        mixed = one[:begin] + two[begin:end] + one[end:]
        assert mixed == one or await refused(keys, mixed)


async def test_the_current_key_seals_and_the_older_ones_still_open(keys):
    both = LocalKeys({1: OLD, 2: NEW})
    old = await seal(keys, b"sk-plain", BINDING)
    new = await seal(both, b"sk-plain", BINDING)

    assert (version_of(old), version_of(new)) == (1, 2)
    assert await open_sealed(both, old, BINDING) == b"sk-plain"
    assert await open_sealed(LocalKeys({2: NEW}), new, BINDING) == b"sk-plain"
    assert await refused(keys, new)


async def test_rewrapping_changes_the_key_and_leaves_the_secret_encrypted_as_it_was(keys):
    both = LocalKeys({1: OLD, 2: NEW})
    old = await seal(keys, b"sk-plain", BINDING)

    new = await rewrap(both, old, BINDING)

    assert version_of(new) == 2
    assert await open_sealed(LocalKeys({2: NEW}), new, BINDING) == b"sk-plain"
    assert new[67:] == old[67:]  # salt, commitment and ciphertext


async def test_a_broken_blob_is_not_rewrapped(keys):
    blob = bytearray(await seal(keys, b"sk-plain", BINDING))
    blob[100] ^= 1  # the commitment

    with pytest.raises(VaultSealed):
        await rewrap(keys, bytes(blob), BINDING)


async def test_no_nonce_salt_or_data_key_comes_twice(keys):
    blobs = [await seal(keys, b"sk-plain", BINDING) for _ in range(5_000)]

    wrapping, salts, sealing = ({blob[a:b] for blob in blobs} for a, b in [(7, 19), (67, 99), (131, 143)])
    assert len(wrapping) == len(salts) == len(sealing) == len(blobs)
    assert not wrapping & sealing


async def test_a_blob_shows_nothing_of_its_secret_but_its_length(keys):
    blob = await seal(keys, b"sk-plain-and-long-enough", BINDING)

    assert b"sk-plain" not in blob
    assert base64.b64encode(b"sk-plain-and-long-enough")[:-4] not in blob
    assert len(blob) == 7 + 12 + 48 + 32 + 32 + 12 + 24 + 16
