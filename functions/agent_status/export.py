"""A person's history as a file: CSV for spreadsheets, JSON lines for programs, written page by page as it is sent.

Memory holds one page at a time (about two megabytes of rows), read with the caller's token. Between two pages nothing
is open, so a client that goes away costs the page that is being read. Once rows are sent a refusal can only break the
stream: a file is whole if its transfer ended well. A host that buffers answers (Lambda) gets one part of the file, with
the cursor of the next in the header X-Next-Cursor; parts join to the whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from starlette.responses import Response, StreamingResponse

from functions.agent_status.export_rows import MEDIA_TYPES, Format, head, written
from functions.agent_status.history import MAX_LIMIT, History, page_of_history
from shared.database import Database
from shared.errors import DatabaseUnavailable
from shared.runs.models import JsonObject

NEXT_CURSOR: Final = "X-Next-Cursor"
PART_BYTES: Final = (
    1_500_000  # a part ends with the page that passes it; Lambda answers with 6 MB at most, JSON-escaped
)
PART_SECONDS: Final = 15.0  # API Gateway ends a request after 29
TRIES: Final = 4  # of a page while the database is away
FIRST_PAUSE_SECONDS: Final = 0.25


@dataclass(frozen=True, slots=True)
class Export:
    """A file of the runs of `history`, from `cursor` on."""

    database: Database
    history: History
    format: Format
    cursor: str | None = None

    async def stream(self) -> Response:
        """The whole file, sent while it is read.

        Raises:
            AppError: the first page is refused; later it is the stream that breaks.
        """
        rows, cursor = await self._page(self.cursor)
        pieces = self._pieces(self._head() + await self._written(rows), cursor)
        return StreamingResponse(pieces, headers=self._headers(), media_type=MEDIA_TYPES[self.format])

    async def part(self, *, seconds: float) -> Response:
        """As much of the file as fits one answer and takes about so many seconds; X-Next-Cursor if there is more.

        Raises:
            AppError: a page is refused.
        """
        ends_at = asyncio.get_running_loop().time() + min(seconds, PART_SECONDS)
        body, cursor = bytearray(self._head()), self.cursor
        while True:
            rows, cursor = await self._page(cursor)
            body += await self._written(rows)
            if cursor is None or len(body) >= PART_BYTES or asyncio.get_running_loop().time() >= ends_at:
                break
        headers = self._headers() | ({} if cursor is None else {NEXT_CURSOR: cursor})
        return Response(bytes(body), headers=headers, media_type=MEDIA_TYPES[self.format])

    async def _pieces(self, first: bytes, cursor: str | None) -> AsyncGenerator[bytes]:
        yield first
        while cursor is not None:
            rows, cursor = await self._page(cursor)
            yield await self._written(rows)  # also when it is empty: a server then notices that the client is gone

    async def _written(self, rows: list[JsonObject]) -> bytes:
        """In a thread: two megabytes of rows would keep every other request waiting."""
        return await asyncio.to_thread(written, rows, self.format)

    async def _page(self, cursor: str | None) -> tuple[list[JsonObject], str | None]:
        """A page of the history, tried again while the database restarts: a read may be repeated."""
        for attempt in range(1, TRIES):
            try:
                return await page_of_history(self.database, self.history, limit=MAX_LIMIT, cursor=cursor)
            except DatabaseUnavailable:
                await asyncio.sleep(FIRST_PAUSE_SECONDS * 2**attempt)
        return await page_of_history(self.database, self.history, limit=MAX_LIMIT, cursor=cursor)

    def _head(self) -> bytes:
        """The line of names, which only the first part has."""
        return head(self.format) if self.cursor is None else b""

    def _headers(self) -> dict[str, str]:
        name = f"runs-{datetime.now(UTC):%Y-%m-%d}.{self.format}"
        return {
            "Content-Disposition": f'attachment; filename="{name}"',
            "Cache-Control": "no-store, no-transform",
            "X-Content-Type-Options": "nosniff",
            "X-Accel-Buffering": "no",
        }
