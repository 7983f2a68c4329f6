"""Passwords as bcrypt hashes, made and compared off the event loop."""

from __future__ import annotations

import asyncio
import re

import bcrypt

from local.auth.errors import WeakPassword, invalid

MIN_LENGTH = 6  # GoTrue's default
MAX_BYTES = 72  # bcrypt reads no further, so longer is refused rather than cut
# GoTrue's 10 takes 60 ms of a core for every sign-up and sign-in; 5 takes 2 ms. The hashes here guard test
# accounts on loopback, and a test suite signs in thousands of times. Imported hashes keep their own cost.
COST = 5

_BCRYPT = re.compile(r"\$2[aby]\$(0[4-9]|1\d)\$[./A-Za-z0-9]{53}")


def check_strength(password: str) -> None:
    """Refuse a password that is too short, or too long for bcrypt."""
    if len(password) < MIN_LENGTH:
        raise WeakPassword(f"Password should be at least {MIN_LENGTH} characters.", reasons=["length"])
    check_length(password)


def check_length(password: str) -> None:
    if len(password.encode()) > MAX_BYTES:
        raise invalid(f"Password cannot be longer than {MAX_BYTES} characters")


def check_hash(password_hash: str) -> None:
    """Refuse an imported hash that is not bcrypt, or so costly that one sign-in would take minutes."""
    if not _BCRYPT.fullmatch(password_hash):
        raise invalid("The password hash is not a bcrypt hash of cost 4 to 19")


async def hash_password(password: str) -> str:
    return (await asyncio.to_thread(bcrypt.hashpw, password.encode(), bcrypt.gensalt(COST))).decode()


async def matches(password: str, password_hash: str | None) -> bool:
    """Whether `password` made the hash. Nothing matches where there is none, or one that is not bcrypt's."""
    raw = password.encode()
    if not password_hash or len(raw) > MAX_BYTES:
        return False
    try:
        return await asyncio.to_thread(bcrypt.checkpw, raw, password_hash.encode())
    except ValueError:
        return False  # no bcrypt hash: a seed or an import wrote the row
