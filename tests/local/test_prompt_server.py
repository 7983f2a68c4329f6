"""A server that ends as soon as it is told to still lets what is under way come to its end."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from local.ports import listening
from local.serving import serving


class Page:
    """Answers when it is let go, or never stops answering."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.goes_on = asyncio.Event()
        self.app = Starlette(routes=[Route("/slow", self._slow), Route("/endless", self._endless)])

    async def _slow(self, _request: Request) -> Response:
        self.asked.set()
        await self.goes_on.wait()
        return Response("all of it")

    async def _endless(self, _request: Request) -> Response:
        async def lines():
            while True:
                yield b"line\n"
                await self.goes_on.wait()

        return StreamingResponse(lines())


async def test_a_request_under_way_is_answered_and_no_other_is_taken():
    page = Page()
    with listening("127.0.0.1", 0) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with httpx.AsyncClient(base_url=url) as client, httpx.AsyncClient(base_url=url) as late:
            async with serving(page.app, listener):
                answer = asyncio.create_task(client.get("/slow"))
                await page.asked.wait()
                # While the block ends, which waits for the answer.
                asyncio.get_running_loop().call_later(0.05, page.goes_on.set)
            assert (await answer).text == "all of it"
            with pytest.raises(httpx.ConnectError):
                await late.get("/slow")


async def test_a_stream_without_end_is_cut_off():
    page = Page()
    with listening("127.0.0.1", 0) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with httpx.AsyncClient(base_url=url) as client:
            async with serving(page.app, listener):
                request = client.build_request("GET", "/endless")
                answer = await client.send(request, stream=True)
            with pytest.raises(httpx.RemoteProtocolError):
                await answer.aread()
