"""An answer's body, within a deadline and a size that counts what it unpacks to.

A few bytes can unpack to gigabytes, so packed bodies are unpacked here, a little at a time, and never by the client.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Iterator
from typing import Final, Protocol, cast

import httpcore
import httpx

from shared.egress.errors import AnswerRefused, ConnectionBroke
from shared.errors import UpstreamTimeout

ENCODINGS: Final = "gzip, deflate"
_PIECE: Final = 65_536  # bytes unpacked at a time
_GZIP_OR_ZLIB: Final = 32 + zlib.MAX_WBITS
_RAW: Final = -zlib.MAX_WBITS
_HEADER: Final = 2  # bytes


class Closable(Protocol):
    def aclose(self) -> Awaitable[None]: ...


class BoundedBody(httpx.AsyncByteStream):
    """What is left of an answer after its headers, unpacked."""

    def __init__(self, raw: AsyncIterable[bytes], *, encoding: str, max_bytes: int, deadline: float) -> None:
        self._raw = raw
        self._unpack = unpacker(encoding)
        self._max_bytes = max_bytes
        self._deadline = deadline

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        chunks = aiter(self._raw)
        while (chunk := await self._next(chunks)) is not None:
            for piece in self._unpack.feed(chunk):
                size += len(piece)
                if size > self._max_bytes:
                    raise too_large(self._max_bytes)
                yield piece
        self._unpack.end()

    async def aclose(self) -> None:
        await cast("Closable", self._raw).aclose()

    async def _next(self, chunks: AsyncIterator[bytes]) -> bytes | None:
        try:
            async with asyncio.timeout_at(self._deadline):
                return await anext(chunks, None)
        except (TimeoutError, httpcore.TimeoutException) as exc:
            raise UpstreamTimeout("The answer did not end in time") from exc
        except (httpcore.NetworkError, httpcore.ProtocolError) as exc:
            raise ConnectionBroke("The connection ended in the middle of the answer") from exc


class Unpacker(Protocol):
    def feed(self, data: bytes) -> Iterator[bytes]: ...
    def end(self) -> None: ...


class Plain:
    """A body that is not packed."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        if data:
            yield data

    def end(self) -> None: ...


class Packed:
    """gzip (of one or several members) or deflate (with its header or, as some send it, without)."""

    def __init__(self, *, deflate: bool) -> None:
        self._deflate = deflate
        self._inflater = zlib.decompressobj(_GZIP_OR_ZLIB)
        self._head = b""  # what came before there was enough to tell one from the other
        self._began = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        if not self._began:
            data = self._head = self._head + data
            if len(data) < _HEADER:
                return
            self._begin()
        more = bool(data)
        while more:
            if self._inflater.eof:
                self._inflater = zlib.decompressobj(_GZIP_OR_ZLIB)
            piece = self._inflate(data)
            data = self._inflater.unconsumed_tail or self._inflater.unused_data
            # A full piece may leave output behind although all of the input is taken.
            more = bool(data) or (len(piece) == _PIECE and not self._inflater.eof)
            if piece:
                yield piece

    def end(self) -> None:
        if self._head and not self._inflater.eof:
            raise ConnectionBroke("The packed answer ended too early")

    def _begin(self) -> None:
        self._began = True
        if self._deflate and not _has_header(self._head):
            self._inflater = zlib.decompressobj(_RAW)

    def _inflate(self, data: bytes) -> bytes:
        try:
            return self._inflater.decompress(data, _PIECE)
        except zlib.error as exc:
            raise AnswerRefused("The answer cannot be unpacked") from exc


def _has_header(head: bytes) -> bool:
    """Whether this begins as zlib (RFC 1950: method 8, and a multiple of 31) or gzip does."""
    first, second = head[:_HEADER]
    return (first & 0x0F == 8 and (first << 8 | second) % 31 == 0) or (first, second) == (0x1F, 0x8B)


def unpacker(encoding: str) -> Unpacker:
    """What undoes a Content-Encoding.

    Raises:
        AnswerRefused: it is one that nobody asked for.
    """
    match encoding.strip().lower():
        case "" | "identity":
            return Plain()
        case "gzip" | "x-gzip":
            return Packed(deflate=False)
        case "deflate":
            return Packed(deflate=True)
        case _:
            raise AnswerRefused("The answer is packed in a way that was not asked for")


def too_large(max_bytes: int) -> AnswerRefused:
    return AnswerRefused(f"The answer is larger than {max_bytes} bytes")
