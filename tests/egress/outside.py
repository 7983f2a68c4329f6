"""A network that keeps book: which names were looked up, and who connected."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network

from shared.egress.surroundings import Surroundings

LOOPBACK = Surroundings(allowed_networks=(ip_network("127.0.0.1/32"),))  # 127.0.0.2 is inside
NOWHERE = Surroundings()

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Names:
    """A resolver with answers of its own; what it does not know has no address. A list of lists is answered in turn."""

    answers: Mapping[str, list[str] | list[list[str]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def __call__(self, host: str, _port: int) -> Iterable[str]:
        self.asked.append(host)
        known = self.answers.get(host)
        if not known:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        if isinstance(known[0], list):
            turns = [self.asked.count(host) - 1, len(known) - 1]
            return known[min(turns)]
        return [str(address) for address in known]


@dataclass
class Listener:
    """A server that counts connections and keeps what it was sent."""

    port: int
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def answer(body: bytes = b"ok", *, status: str = "200 OK", **headers: str) -> bytes:
    """An HTTP answer as it goes over the wire."""
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", "connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@asynccontextmanager
async def listening(
    reply: bytes | Callable[[bytes], bytes] | Handler, *, host: str = "127.0.0.1"
) -> AsyncGenerator[Listener]:
    """Listen on a port of this machine; `reply` is the answer, makes it of the request, or speaks itself."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        listener.connections += 1
        try:
            if asyncio.iscoroutinefunction(reply):
                await reply(reader, writer)
            else:
                request = await reader.readuntil(b"\r\n\r\n")
                listener.requests.append(request)
                writer.write(reply if isinstance(reply, bytes) else reply(request))  # type: ignore[operator]
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # who asked has hung up
        finally:
            writer.close()

    server = await asyncio.start_server(serve, host, 0)
    listener = Listener(server.sockets[0].getsockname()[1])
    async with server:
        yield listener
