"""Runs of agents: the input is checked against the very version that the run then pins; all problems come at once."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import Final, cast

import orjson

from shared.agents.inputs import problems_with_input
from shared.agents.problems import Problem, refuse
from shared.agents.schemas import problems_with_schema
from shared.database import Database
from shared.errors import Conflict
from shared.runs.models import JsonObject

_TRIES: Final = 5  # publications in a row that may come between
_OURS: Final = {"max_credits": "options.max_credits"}
"""Fields that the request has by another name than the database."""


async def create_agent_run(database: Database, request: JsonObject, key: str | None) -> JsonObject:
    """Make a run of `request["agent_id"]`, and answer as `create_run` does.

    Raises:
        InvalidInput: the input does not fit, or credentials are missing: each problem as {field, message} in `details`.
        NotFound: there is no such agent, or no access to it.
        Conflict: it is retired or not published, or has another version than `request["version_id"]`.
    """
    arguments: JsonObject = {"p_request": request, "p_idempotency_key": key}
    for tries_left in reversed(range(_TRIES)):
        checked = cast("JsonObject", await database.call("check_run", arguments))
        pinned = request
        if not checked["known"]:
            refuse(await _problems(checked, request))
            pinned = {**request, "version_id": checked["version_id"]}
        try:
            return cast("JsonObject", await database.call("create_run", {**arguments, "p_request": pinned}))
        except Conflict as exc:
            # Another version was published since; the caller who named none gets that.
            if type(exc) is not Conflict or "version_id" in request or not tries_left:
                raise
    raise AssertionError("the last try answers or raises")


async def _problems(checked: JsonObject, request: JsonObject) -> list[Problem]:
    schema = cast("JsonObject", checked["input_schema"])
    if not _is_sound(orjson.dumps(schema)):
        raise Conflict("The agent cannot be run: its input schema is broken", hint="Its admins can repair it.")
    # In a thread: a large input would keep every other request waiting.
    problems = await asyncio.to_thread(problems_with_input, schema, cast("JsonObject", request["input"]))
    for problem in cast("list[dict[str, str]]", checked["problems"]):
        problems.append(Problem(_OURS.get(problem["field"], problem["field"]), problem["message"]))
    return problems


@lru_cache(maxsize=256)
def _is_sound(schema: bytes) -> bool:
    """Whether a schema may be used. The database took it from an admin as it was, perhaps past our functions."""
    return not problems_with_schema(orjson.loads(schema))
