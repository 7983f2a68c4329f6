"""POST /functions/v1/queue-drain: work off the queue for a while. The project's secret key only.

Claims due runs, advances them, sweeps expired leases and overdue deadlines, and gives back what is unfinished when its
time is nearly up; another drain goes on from there. It ends early when nothing is due. Any number may drain at once.
Called by a schedule and by nudges, with an empty body; answers a tally. On Lambda it may also be invoked without HTTP,
by a schedule or another function: IAM has then decided who may.
"""

from __future__ import annotations

import os
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from shared.http import Answer, Call, endpoint, serverless
from shared.http.serverless import Event
from shared.settings import current_settings

MARGIN_SECONDS = 5.0  # what giving back and answering may take, where the host ends the request by force
DEFAULT_SECONDS = 300.0  # a drain starts no step that may outlast it, and a model call may take two minutes


class Limits(BaseModel):
    """How long and how wide to work."""

    model_config = ConfigDict(extra="forbid")

    max_seconds: float = Field(default=DEFAULT_SECONDS, ge=1, le=840, allow_inf_nan=False)
    limit: int = Field(default=10, ge=1, le=100, description="Runs at a time")


class Tally(BaseModel):
    """What was done."""

    claimed: int = Field(description="Runs that were claimed; a run may be more than once")
    left: dict[str, int] = Field(description="How often a run was left, by the status it was left in")
    swept: int = Field(description="Runs that the sweep ended: overdue, or lost too often")


async def queue_drain(call: Call[Limits]) -> Answer:
    """Drain until nothing is due or the time is up."""
    # Imported here: engines, model SDKs and the sandbox cost a second that no refused request should pay.
    from shared.engines.registry import engines_from_env  # noqa: PLC0415
    from shared.runs.drain import drain  # noqa: PLC0415

    left = call.seconds_left()
    seconds = call.body.max_seconds if left is None else max(1.0, min(call.body.max_seconds, left - MARGIN_SECONDS))
    tally = await drain(call.database, engines_from_env(os.environ), seconds=seconds, concurrency=call.body.limit)
    return 200, Tally.model_validate(tally.to_json())


app = endpoint(
    queue_drain,
    slug="queue-drain",
    accepts=TypeAdapter(Limits),
    replies={200: Tally},
    callers="service",
)
_http = serverless(app)


def handler(event: Event, context: Any) -> dict[str, Any]:
    """Lambda's entry: an HTTP event as it is; any other invocation as the service's own request."""
    return _http(event if "requestContext" in event else _own_request(), context)


def _own_request() -> Event:
    key = current_settings().secret_keys[0]
    return {
        "version": "2.0",
        "rawPath": "/queue-drain",
        "rawQueryString": "",
        "headers": {"apikey": key, "authorization": f"Bearer {key}", "content-type": "application/json"},
        "requestContext": {
            "http": {"method": "POST", "path": "/queue-drain", "sourceIp": "127.0.0.1"},
            "stage": "$default",
        },
        "body": "{}",
        "isBase64Encoded": False,
    }
