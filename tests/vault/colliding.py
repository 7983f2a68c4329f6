"""A text that AES-GCM opens under two keys, to show what the envelope's commitment is for.

GCM's tag is a polynomial over GF(2^128) in a secret of each key, plus a mask of each key. With two blocks of text the
first may be anything, and the second is the solution of one linear equation that makes the two tags equal.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

_REDUCTION = 0xE1 << 120  # x^128 + x^7 + x^2 + x + 1, in GCM's order of bits
_ONE = 1 << 127


def colliding_text(nonce: bytes, *places: tuple[bytes, bytes]) -> bytes:
    """Two blocks and a tag that both (key, associated data) accept."""
    first = bytes(16)
    (h_one, rest_one), (h_two, rest_two) = (_parts(nonce, key, associated, first) for key, associated in places)
    # second * h_one^2 + rest_one = second * h_two^2 + rest_two
    second = _times(rest_one ^ rest_two, _inverse(_times(h_one, h_one) ^ _times(h_two, h_two)))
    tag = _times(second, _times(h_one, h_one)) ^ rest_one
    return first + second.to_bytes(16, "big") + tag.to_bytes(16, "big")


def _parts(nonce: bytes, key: bytes, associated: bytes, first: bytes) -> tuple[int, int]:
    """The key's secret, and its tag but for what the second block adds."""
    h = int.from_bytes(_block(key, bytes(16)), "big")
    padded = associated + bytes(-len(associated) % 16)
    blocks = [padded[start : start + 16] for start in range(0, len(padded), 16)]
    lengths = (len(associated) * 8).to_bytes(8, "big") + (32 * 8).to_bytes(8, "big")
    told = 0
    for block in [*blocks, first, bytes(16), lengths]:
        told = _times(told ^ int.from_bytes(block, "big"), h)
    return h, told ^ int.from_bytes(_block(key, nonce + b"\0\0\0\1"), "big")


def _block(key: bytes, block: bytes) -> bytes:
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305 - one block, as GCM is made of them
    return encryptor.update(block)


def _times(one: int, two: int) -> int:
    product = 0
    for bit in range(128):
        if two >> (127 - bit) & 1:
            product ^= one
        one = one >> 1 ^ (_REDUCTION if one & 1 else 0)
    return product


def _inverse(number: int) -> int:
    """By Fermat: number^(2^128 - 2)."""
    result, power = _ONE, number
    for _ in range(127):
        power = _times(power, power)
        result = _times(result, power)
    return result
