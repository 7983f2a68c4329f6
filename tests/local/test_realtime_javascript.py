"""`/realtime/v1` through supabase-js, in both versions of the protocol."""

from __future__ import annotations

import pytest

from tests.support.node import run_script
from tests.support.stack import Stack


@pytest.mark.parametrize("version", ["1.0.0", "2.0.0"])
async def test_a_runs_owner_gets_every_line_once_and_in_order_and_a_stranger_none(stack: Stack, version: str) -> None:
    seen = await run_script("realtime.mjs", stack, REALTIME_VSN=version)

    assert len(seen["stored"]) >= 4
    assert seen["rows"] == seen["stored"]
    assert seen["lines"] == seen["stored"]
    assert seen["ownersJoin"]["status"] == "SUBSCRIBED"
    assert seen["strangersJoin"]["status"] == "CHANNEL_ERROR"
    assert "Unauthorized" in seen["strangersJoin"]["error"]
    assert seen["strangersRows"] == []
    assert seen["acknowledged"] == "ok"
    words = [["words", "h\u00e9"], ["post", "over HTTP"]]
    assert seen["heard"] == words + ([["bytes", [0, 1, 255]]] if version == "2.0.0" else [])
