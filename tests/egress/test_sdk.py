"""The guarded client under an SDK that takes a client: for model servers whose address a person enters."""

from __future__ import annotations

import json

import openai
import pytest

from shared.egress import AddressBlocked, EgressPolicy, egress_client
from tests.egress.outside import LOOPBACK, NOWHERE, answer, listening

COMPLETION = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello"}}],
}


async def test_openais_sdk_speaks_through_it() -> None:
    async with listening(answer(json.dumps(COMPLETION).encode(), content_type="application/json")) as there:
        http = egress_client(EgressPolicy.for_url(there.origin), surroundings=LOOPBACK)
        async with openai.AsyncOpenAI(api_key="k", base_url=f"{there.origin}/v1", http_client=http) as client:
            completion = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])

    assert completion.choices[0].message.content == "Hello"
    assert b"POST /v1/chat/completions" in there.requests[0]


async def test_it_refuses_the_sdk_an_address_inside() -> None:
    async with listening(answer(b"{}")) as there:
        http = egress_client(EgressPolicy.for_url(there.origin), surroundings=NOWHERE)
        async with openai.AsyncOpenAI(api_key="k", base_url=there.origin, http_client=http, max_retries=0) as client:
            with pytest.raises(AddressBlocked):
                await client.models.list()
    assert there.connections == 0
