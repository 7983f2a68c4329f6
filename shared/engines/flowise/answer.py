"""What a flow answered, gathered from its events, its JSON body or the message it stored: the same for all three.

Only what is wanted is taken, and each part has a bound. What the nodes of an agentflow were given is never taken: it
holds overridden keys in clear.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import is_
from typing import Final, cast

import orjson

from shared.engines.flowise.wire import Event
from shared.runs.models import Json, JsonObject

TEXT_CHARACTERS: Final = 128 * 1024  # it is kept twice, in the output and as a message
PART_BYTES: Final = 96 * 1024  # of each list (documents, tools, ...); all in all it stays under a step's 2 MB
PART_ITEMS: Final = 100
NODES: Final = 200
ID_CHARACTERS: Final = 200  # Flowise's are UUIDs, and names of nodes with a number
LABEL_CHARACTERS: Final = 200
PROMPT_CHARACTERS: Final = 4_000
DEPTH: Final = 32  # levels of a part; a step's output takes 64, and people read fewer
TOO_DEEP: Final = "[nested too deep]"

# Flowise's names, which are the output's too: who knows Flowise knows the output.
LISTS: Final = ("sourceDocuments", "usedTools", "artifacts", "fileAnnotations", "agentReasoning")
_COUNTS: Final = ("input_tokens", "output_tokens", "total_tokens")


@dataclass(frozen=True, slots=True)
class HumanStop:
    """The flow has stopped to ask a person.

    Attributes:
        prompt: What is asked, if the flow said nothing else.
        node_id: Where it stands, and goes on.
        proceed: What the person chooses to let it go on, in the flow's words.
        feedback: Whether it takes words besides the choice.
    """

    prompt: str
    node_id: str
    proceed: str = "Proceed"
    reject: str = "Reject"
    feedback: bool = False

    def to_json(self) -> JsonObject:
        return {
            "prompt": self.prompt,
            "node_id": self.node_id,
            "proceed": self.proceed,
            "reject": self.reject,
            "feedback": self.feedback,
        }

    @classmethod
    def from_json(cls, value: JsonObject) -> HumanStop:
        return cls(
            str(value["prompt"]),
            str(value["node_id"]),
            str(value["proceed"]),
            str(value["reject"]),
            bool(value["feedback"]),
        )


@dataclass(slots=True)
class Answer:
    """An answer while it comes in, and when it is complete."""

    text: str = ""
    chat_id: str | None = None
    session_id: str | None = None
    message_id: str | None = None
    execution_id: str | None = None
    lists: dict[str, list[Json]] = field(default_factory=dict[str, list[Json]])
    json: Json = None
    nodes: dict[str, JsonObject] = field(default_factory=dict[str, JsonObject])
    usage: dict[str, int] = field(default_factory=dict[str, int])
    stop: HumanStop | None = None
    cut: set[str] = field(default_factory=set[str])
    recovered: bool = False
    """The answer was read from the server afterwards, for its stream was lost."""

    def add(self, event: Event) -> None:
        """Take in one event of a stream; unknown ones say nothing."""
        data = event.data
        match event.name:
            case "token" if isinstance(data, str):
                self._add_text(data)
            case "nextAgentFlow":
                self._add_node(_object(data))
            case "agentFlowExecutedData":
                self._add_executed(data)
            case "usageMetadata":
                # Their sum, unless the executed data says it for all nodes at the end.
                self._count(self.usage, data)
            case "metadata":
                self._add_ids(_object(data))
            case "action":
                self._add_action(data)
            case name if name in LISTS:
                self._add_list(name, data)
            case _:
                pass

    def _add_text(self, text: str) -> None:
        room = TEXT_CHARACTERS - len(self.text)
        if len(text) > room:
            self.cut.add("text")
        self.text += text[:room]

    def _add_ids(self, data: JsonObject) -> None:
        self.chat_id = _id(data.get("chatId")) or self.chat_id
        self.session_id = _id(data.get("sessionId")) or self.session_id
        self.message_id = _id(data.get("chatMessageId")) or _id(data.get("id")) or self.message_id
        self.execution_id = _id(data.get("executionId")) or self.execution_id
        self._add_action(data.get("action"))

    def _add_list(self, name: str, data: Json) -> None:
        value = _parsed(data)
        if not isinstance(value, list):
            return
        kept: list[Json] = []
        size = 0
        for item in value[:PART_ITEMS]:
            shallow, written = _storable(item, DEPTH - 1)
            size += written
            if size > PART_BYTES:
                break
            kept.append(shallow)
            if shallow is not item:
                self.cut.add(name)
        if len(kept) < len(value):
            self.cut.add(name)
        self.lists[name] = kept

    def add_json(self, data: Json) -> None:
        """Take the structured answer, if there is one."""
        if data is None:
            return
        shallow, written = _storable(data, DEPTH)
        if written <= PART_BYTES:
            self.json = shallow
        if self.json is not data:
            self.cut.add("json")

    def _add_node(self, data: JsonObject) -> None:
        node_id = _id(data.get("nodeId"))
        if node_id is None or (node_id not in self.nodes and len(self.nodes) >= NODES):
            return
        self.nodes[node_id] = {
            "id": node_id,
            "label": (_text(data.get("nodeLabel")) or node_id)[:LABEL_CHARACTERS],
            "status": (_text(data.get("status")) or "")[:40],
        }

    def _add_executed(self, data: Json) -> None:
        executed = _parsed(data)
        if not isinstance(executed, list):
            return
        usage: dict[str, int] = {}
        for node in executed:
            self._add_node(_object(node))
            output = _object(_object(_object(node).get("data")).get("output"))
            self._count(usage, output.get("usageMetadata"))
        if usage:
            self.usage = usage

    def _add_action(self, data: Json) -> None:
        action = _object(_parsed(data))
        asked = _object(action.get("data"))
        node_id = _id(asked.get("nodeId"))
        if node_id is None:
            return
        mapping = _object(action.get("mapping"))
        labels = _labels(action.get("elements"))
        details = _object(asked.get("input"))
        self.stop = HumanStop(
            prompt=(_text(asked.get("nodeLabel")) or "The flow asks whether to go on.")[:PROMPT_CHARACTERS],
            node_id=node_id,
            proceed=(labels.get("approve") or _text(mapping.get("approve")) or "Proceed")[:LABEL_CHARACTERS],
            reject=(labels.get("reject") or _text(mapping.get("reject")) or "Reject")[:LABEL_CHARACTERS],
            feedback=details.get("humanInputEnableFeedback") is True,
        )

    @staticmethod
    def _count(usage: dict[str, int], data: Json) -> None:
        counted = _object(data)
        for name in _COUNTS:
            value = counted.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40:
                usage[name] = usage.get(name, 0) + value

    def to_output(self) -> JsonObject:
        """The output of the step and, when the flow has ended, of the run."""
        output: JsonObject = {"text": self.text}
        output.update({name: [*items] for name, items in self.lists.items() if items})
        if self.json is not None:
            output["json"] = self.json
        ids = {
            "executionId": self.execution_id,
            "chatId": self.chat_id,
            "chatMessageId": self.message_id,
            "sessionId": self.session_id,
        }
        output.update({name: value for name, value in ids.items() if value is not None})
        if self.usage:
            output["usage"] = {**self.usage}
        if self.nodes:
            output["nodes"] = [*self.nodes.values()]
        if self.cut:
            output["cut"] = [*sorted(self.cut)]
        if self.recovered:
            output["recovered"] = True
        if self.stop is not None:
            output["waiting"] = self.stop.to_json()
        return output


def from_body(body: Mapping[str, Json]) -> Answer:
    """Read the JSON that a prediction answers."""
    answer = Answer()
    answer.add(Event("token", body.get("text")))
    for name in LISTS:
        if body.get(name):
            answer.add(Event(name, body[name]))
    answer.add(Event("agentFlowExecutedData", body.get("agentFlowExecutedData")))
    answer.add(Event("metadata", {**body}))
    answer.add_json(body.get("json"))
    return answer


def from_message(message: Mapping[str, Json]) -> Answer:
    """Read a stored message of the flow, whose lists may be JSON within JSON."""
    answer = from_body({**message, "text": message.get("content")})
    answer.recovered = True
    return answer


def _labels(elements: Json) -> dict[str, str]:
    """What the two buttons say: their types are agentflowv2-approve-button and agentflowv2-reject-button."""
    found: dict[str, str] = {}
    for element in _list(elements):
        kind, label = _text(_object(element).get("type")), _text(_object(element).get("label"))
        for choice in ("approve", "reject"):
            if kind is not None and label is not None and choice in kind:
                found[choice] = label
    return found


def _parsed(value: Json) -> Json:
    """JSON that may have been stored as text."""
    if not isinstance(value, str):
        return value
    try:
        return cast("Json", orjson.loads(value))
    except ValueError:
        return None


def _object(value: Json) -> JsonObject:
    return value if isinstance(value, dict) else {}


def _list(value: Json) -> Sequence[Json]:
    return value if isinstance(value, list) else []


def _text(value: Json) -> str | None:
    return value if isinstance(value, str) and value else None


def _id(value: Json) -> str | None:
    """An id; one that is too long for it is none, for cut it would be another's."""
    text = _text(value)
    return text if text is not None and len(text) <= ID_CHARACTERS else None


def _storable(value: Json, levels: int) -> tuple[Json, int]:
    """The value down to so many levels, and its size as JSON."""
    try:
        raw = orjson.dumps(value)
    except TypeError:  # nested deeper than can be written
        pass
    else:
        if len(raw) > PART_BYTES or raw.count(b"[") + raw.count(b"{") <= levels:
            return value, len(raw)  # left out, or not worth a walk
    shallow = _shallow(value, levels)
    return shallow, len(orjson.dumps(shallow))


def _shallow(value: Json, levels: int) -> Json:
    """The value with what is nested deeper than so many levels said to be; the very same where nothing is."""
    if isinstance(value, dict):
        if levels == 0:
            return TOO_DEEP
        members = {name: _shallow(member, levels - 1) for name, member in value.items()}
        return value if all(map(is_, members.values(), value.values())) else members
    if isinstance(value, list):
        if levels == 0:
            return TOO_DEEP
        items = [_shallow(item, levels - 1) for item in value]
        return value if all(map(is_, items, value)) else items
    return value
