"""Keys as the environment has them, and under which of them the credentials are."""

from __future__ import annotations

import base64
import hashlib
import json

from tests.support.runs import connect


def encryption_keys(*versions: int) -> str:
    """ENCRYPTION_KEYS with the keys of `tests.vault.people.ring`."""
    keys = {str(version): hashlib.sha256(b"test key %d" % version).digest() for version in versions}
    return json.dumps({version: base64.b64encode(key).decode() for version, key in keys.items()})


async def key_versions(url: str) -> dict[int, int]:
    """How many credentials are under each version."""
    async with connect(url) as connection:
        cursor = await connection.execute("select key_version, count(*) from public.credentials group by 1")
        return dict(await cursor.fetchall())
