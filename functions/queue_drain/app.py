"""POST /functions/v1/queue-drain: work off the queue for a while. The project's secret key only.

Claims due runs, advances them, sweeps expired leases and overdue deadlines, and gives back what is unfinished when its
time is nearly up; another drain goes on from there. It ends early when nothing is due. Any number may drain at once.
A step that may take over 840 seconds, more than any drain has, fails its run. Called by a schedule and by nudges, with
an empty body; answers a tally. On Lambda it may also be invoked without HTTP, by a schedule or another function: IAM
has then decided who may, and the drain is as long as it may be.
"""

from __future__ import annotations

import os
from typing import Annotated, Any

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter
from pydantic_core import PydanticCustomError

from shared.http import Answer, Call, endpoint, serverless
from shared.http.serverless import Event
from shared.settings import current_settings

MARGIN_SECONDS = 5.0  # what giving back and answering may take, where the host ends the request by force
LONGEST_STEP_SECONDS = 840.0  # what the host that lives longest can perform: Lambda has 900
MAX_SECONDS = 870.0  # the longest step, and what is done before it starts
MIN_SECONDS = 150.0  # a drain starts no step that may outlast it, and a model step of an agent may take 130
DEFAULT_SECONDS = 300.0


def _long_enough(seconds: float) -> float:
    if seconds < MIN_SECONDS:
        raise PydanticCustomError(
            "too_short",
            "must be at least {least}, because one model step of an agent may take 130; "
            "a shorter drain would only claim runs and give them back",
            {"least": f"{MIN_SECONDS:g}"},
        )
    return seconds


class Limits(BaseModel):
    """How long and how wide to work."""

    model_config = ConfigDict(extra="forbid")

    max_seconds: Annotated[float, AfterValidator(_long_enough)] = Field(
        default=DEFAULT_SECONDS, le=MAX_SECONDS, allow_inf_nan=False, json_schema_extra={"minimum": MIN_SECONDS}
    )
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
    from shared.runs.worker import WorkerOptions  # noqa: PLC0415
    from shared.vault.environment import vault_from_env  # noqa: PLC0415

    left = call.seconds_left()
    seconds = call.body.max_seconds if left is None else max(1.0, min(call.body.max_seconds, left - MARGIN_SECONDS))
    options = WorkerOptions(concurrency=call.body.limit, longest_step_seconds=LONGEST_STEP_SECONDS)
    engines, vault = engines_from_env(os.environ), vault_from_env(call.database)
    tally = await drain(call.database, engines, seconds=seconds, options=options, vault=vault)
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
    """Lambda's entry: an HTTP event as it is; any other invocation as the service's own request for a long drain."""
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
        "body": orjson.dumps({"max_seconds": MAX_SECONDS}).decode(),
        "isBase64Encoded": False,
    }
