"""A server that ends as soon as it is told to still lets what is under way come to its end."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from local.ports import listening
from local.prompt_server import PromptServer
from local.serving import serving
from tests.support.runs import until


class Page:
    """Answers when it is let go, or never stops answering."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.goes_on = asyncio.Event()
        self.ended = False
        self.app = Starlette(
            routes=[Route("/slow", self._slow), Route("/endless", self._endless), Mount("/flood", self._flood)]
        )

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

    async def _flood(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while True:
                self.asked.set()
                await send({"type": "http.response.body", "body": bytes(1_000_000), "more_body": True})
        finally:
            await asyncio.sleep(0.01)  # as who has something to give back
            self.ended = True


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


async def test_what_is_cut_off_has_ended_when_the_server_has_though_nobody_reads_it():
    page = Page()
    with listening("127.0.0.1", 0) as listener:
        async with serving(page.app, listener):
            _, writer = await asyncio.open_connection(*listener.getsockname(), limit=1)
            writer.write(b"GET /flood/ HTTP/1.1\r\nHost: here\r\n\r\n")
            await page.asked.wait()
        assert page.ended
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def test_who_waits_for_what_is_under_way_can_be_forced_to_end():
    page = Page()
    server = PromptServer(uvicorn.Config(page.app, lifespan="off", log_config=None))

    async def is_closed() -> bool:
        return not server.servers[0].is_serving()

    with listening("127.0.0.1", 0) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with httpx.AsyncClient(base_url=url) as client:
            serve = asyncio.create_task(server.serve([listener]))
            await server.ready.wait()
            answer = asyncio.create_task(client.get("/slow"))
            await page.asked.wait()
            server.end()
            await until(is_closed)
            server.end(force=True)
            await serve
            assert (await answer).status_code == 500


def test_a_server_that_has_ended_may_be_told_to_end_again():
    server = PromptServer(uvicorn.Config(Page().app, lifespan="off", log_config=None, loop="asyncio"))
    with listening("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        server.end()
        thread.join()

        server.end(force=True)

        assert not thread.is_alive()
