"""GET /functions/v1/agent-logs: a run's log lines, by polling or as a stream of server-sent events.

`mode=poll` answers the lines after `after` and, in `next_after`, what to send next time. `done` says that the run has
ended and nothing will follow.

`mode=stream` sends each line as an event: `id` is its seq, `event` its log_type, `data` the line as JSON. Between them
come `delta` events {step_no, attempt, offset, text}: model output while it is being written, without an id. The last
event is `done` {run_id, status, revision}. A client that reconnects sends `Last-Event-ID` and misses nothing. A stream
is bounded and sends `retry` before it ends early; if the caller may no longer read, it ends with `refused`, an error
body. A host that cannot stream answers with a slice as soon as there is something in it.

`types` keeps only some log types: `?types=error,warning`. A run of somebody else does not exist (404). An account may
open only so many streams a minute (429 with `Retry-After`); one that goes on from its `Last-Event-ID` is not counted.
"""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter
from starlette.responses import StreamingResponse

from functions.agent_logs.source import LogSource
from functions.agent_logs.stream import LogStream, Slice
from shared.errors import InvalidInput
from shared.http import Answer, Call, endpoint, serverless
from shared.run_views import LogLine
from shared.runs.models import LogType

MAX_SEQ = 2**63 - 1


class LogsQuery(BaseModel):
    """Which lines of which run."""

    model_config = ConfigDict(extra="forbid")

    run_id: UUID
    mode: Literal["poll", "stream"] = "poll"
    after: int = Field(default=0, ge=0, le=MAX_SEQ, description="The seq of the last line you have")
    limit: int = Field(default=100, ge=1, le=500, description="Lines of one answer; a stream sends all")
    types: Annotated[list[LogType], BeforeValidator(lambda value: value.split(","))] = []


class Lines(BaseModel):
    """Log lines in order."""

    logs: list[LogLine]
    next_after: int = Field(description="Send it as `after` next time")
    done: bool = Field(description="The run has ended and nothing follows")


async def agent_logs(call: Call[LogsQuery]) -> Answer:
    """Answer with lines, or begin to stream them."""
    query = call.body
    source = LogSource(call.database, query.run_id, tuple(query.types))
    if query.mode == "stream":
        seen = _last_event_id(call.headers.get("last-event-id"))
        limits = Slice.on_host(buffered=call.is_buffered, seconds_left=call.seconds_left())
        stream = LogStream(source, after=query.after if seen is None else seen, limits=limits)
        await stream.open(is_new=seen is None)
        headers = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
        return StreamingResponse(stream.events(), media_type="text/event-stream", headers=headers)
    reading = await source.read(after=query.after, limit=query.limit)
    return 200, Lines(logs=reading.lines, next_after=reading.reached, done=reading.is_last)


def _last_event_id(value: str | None) -> int | None:
    """What a reconnecting client has seen; it wins over `after`, which stands in the URL it connects to again."""
    if not value:
        return None
    # The length first: Python refuses to read thousands of digits.
    if not value.isdecimal() or len(value) > len(str(MAX_SEQ)) or int(value) > MAX_SEQ:
        raise InvalidInput("Last-Event-ID: must be the id of an event of this stream")
    return int(value)


app = endpoint(
    agent_logs,
    slug="agent-logs",
    accepts=TypeAdapter(LogsQuery),
    replies={200: Lines},
    methods=("GET",),
    headers={"Last-Event-ID": "mode=stream: the id of the last event that arrived"},
)
handler = serverless(app)
