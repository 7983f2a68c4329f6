"""What was sealed once opens for ever, and one blob has one plain text, whoever made it."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID, uuid4

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shared.errors import VaultSealed
from shared.vault.binding import Binding
from shared.vault.envelope import open_sealed, rewrap, seal
from shared.vault.keys import LocalKeys
from tests.vault.colliding import colliding_text
from tests.vault.vectors import FILE, blob_of

VECTORS: list[dict[str, Any]] = json.loads(FILE.read_text())


def binding_of(vector: dict[str, Any]) -> Binding:
    return Binding(UUID(vector["account_id"]), UUID(vector["credential_id"]), vector["provider"])


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["provider"])
async def test_a_known_blob_opens(vector: dict[str, Any]):
    keys = LocalKeys({vector["key_version"]: bytes.fromhex(vector["master_key"])})

    opened = await open_sealed(keys, bytes.fromhex(vector["blob"]), binding_of(vector))

    assert opened.decode() == vector["plain"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["provider"])
def test_a_known_blob_is_what_its_description_says(vector: dict[str, Any]):
    assert blob_of(vector).hex() == vector["blob"]


async def test_a_wrapping_that_opens_under_two_master_keys_is_refused_under_the_second():
    """GCM commits to no key: a text can be made that two keys accept. The envelope's commitment is to the data key."""
    one, two = b"1" * 32, b"2" * 32
    binding = Binding(uuid4(), uuid4(), "openai")
    nonce = bytes(12)
    bound = {version: b"runbase wrap" + version.to_bytes(4, "big") + binding.to_bytes() for version in (1, 2)}
    wrapped = nonce + colliding_text(nonce, (one, bound[1]), (two, bound[2]))
    data_keys = [AESGCM(key).decrypt(nonce, wrapped[12:], bound[version]) for version, key in ((1, one), (2, two))]
    assert data_keys[0] != data_keys[1]  # both keys take the wrapping, and find different data keys in it

    keys = LocalKeys({1: one, 2: two})
    blob = bytearray(await seal_under(data_keys[0], wrapped, binding))
    assert await open_sealed(keys, bytes(blob), binding) == b"sk-plain"

    blob[4] = 2  # the version in the header: now the second key unwraps, as it may
    with pytest.raises(VaultSealed, match="cannot be opened"):
        await open_sealed(keys, bytes(blob), binding)
    with pytest.raises(VaultSealed, match="cannot be opened"):
        await rewrap(keys, bytes(blob), binding)


async def seal_under(data_key: bytes, wrapped: bytes, binding: Binding) -> bytes:
    """Seal as ever, but with this data key and its wrapping."""

    class Given(LocalKeys):
        async def wrap(self, data_key: bytes, version: int, binding: Binding) -> bytes:
            return wrapped

    with pytest.MonkeyPatch.context() as patch:
        # The first that is drawn is the data key.
        drawn = iter([data_key, bytes(32), bytes(12)])
        patch.setattr("shared.vault.envelope.os.urandom", lambda _: next(drawn))
        return await seal(Given({1: b"1" * 32}), b"sk-plain", binding)


def test_the_colliding_text_is_taken_by_its_two_keys_alone():
    text = colliding_text(bytes(12), (b"1" * 32, b"a"), (b"2" * 32, b"b"))

    AESGCM(b"1" * 32).decrypt(bytes(12), text, b"a")
    AESGCM(b"2" * 32).decrypt(bytes(12), text, b"b")
    with pytest.raises(InvalidTag):
        AESGCM(b"3" * 32).decrypt(bytes(12), text, b"a")
