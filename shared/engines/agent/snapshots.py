"""An agent's state as it is stored: which of its steps to read again, and what is left of the others.

Nearly all of the state is the conversation, and every word of that stands in the steps' messages already. So a snapshot
holds references: the state is folded again from the kept results, with what was left out of the conversation noted in
their place. What opening reads is then what the next request says, however much the run has left behind.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Final, cast

import orjson

from shared.engines.agent.limits import AgentLimits
from shared.engines.agent.state import AgentState, fold, fold_remnant
from shared.runs.engine import Snapshot
from shared.runs.models import JsonObject, StepResult

SNAPSHOT_VERSION: Final = 1

_REMNANT_BYTES = 1_000  # a larger one is read again instead
_REMNANTS_BYTES = 24 * 1024  # all of them; thus every snapshot can be stored


def take(state: AgentState) -> Snapshot:
    """Write down how to build the state again."""
    remnants: JsonObject = {}
    size = 0
    for step_no, remnant in sorted(state.conversation.remnants.items()):
        bytes_ = len(orjson.dumps(remnant)) + 12
        if bytes_ <= _REMNANT_BYTES and size + bytes_ <= _REMNANTS_BYTES:
            remnants[str(step_no)] = remnant
            size += bytes_
    keep = tuple(number for number in sorted(state.steps) if str(number) not in remnants)
    return Snapshot({"slimmed": state.conversation.slimmed, "remnants": remnants}, keep)


def restore(state: AgentState, snapshot: JsonObject, kept: Mapping[int, StepResult], limits: AgentLimits) -> AgentState:
    """Fold a fresh state to where the snapshot was taken.

    In the order of the steps' numbers, which is as good as that of their ends: steps that ran side by side belong to
    one turn, and the order of their ends leaves no trace.
    """
    remnants = {
        int(number): cast("JsonObject", left) for number, left in cast("JsonObject", snapshot["remnants"]).items()
    }
    # What was left out then is left out at the end, at once: on the way it would be less than was really said.
    unbounded = replace(limits, conversation_characters=sys.maxsize)
    for number in sorted({*remnants, *kept}):
        if number in remnants:
            state = fold_remnant(state, number, remnants[number], unbounded)
        else:
            state = fold(state, kept[number], unbounded)
    state.conversation.remnants.update(remnants)
    state.conversation.slim(cast("int", snapshot["slimmed"]))
    return state
