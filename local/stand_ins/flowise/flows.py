"""What the stand-in knows: flows, what happens at their predictions, and what a model behind them is sent."""

from __future__ import annotations

import json
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast
from uuid import uuid4

SERVER_KEY = "flowise-server-key-0123456789"
STORED_KEY = "sk-stored-at-flowise-0123456789"
MODEL_REFUSES = "401 Unauthorized – check your API key and ensure it is valid and has the required permissions"  # noqa: RUF001 - its own words

Kind = Literal["CHATFLOW", "AGENTFLOW"]


@dataclass(frozen=True)
class Node:
    id: str
    label: str
    parameters: tuple[str, ...]


CHAT_NODES = (
    Node("chatOpenAI_0", "OpenAI", ("openAIApiKey", "modelName", "temperature", "basepath", "baseOptions")),
    Node("conversationChain_0", "Conversation Chain", ("systemMessagePrompt",)),
)
AGENT_NODES = (
    Node("startAgentflow_0", "Start", ("startState",)),
    Node("llmAgentflow_0", "LLM", ("llmModelConfig", "openAIApiKey", "llmUserMessage")),
    Node("directReplyAgentflow_0", "Direct Reply", ("directReplyMessage",)),
)


@dataclass(frozen=True)
class ModelCall:
    """What reached the model behind a flow."""

    flow_id: str
    key: str
    question: str
    settings: Mapping[str, Any]
    variables: Mapping[str, Any]


@dataclass(frozen=True)
class Turn:
    """What happens at one prediction.

    Attributes:
        hangs: Until the server is told to `release` it; `after` so many words. An agentflow can be aborted there.
        breaks: The connection is cut `after` so many words; the flow goes on all the same.
        asks: An agentflow stops for a person; the next prediction of the session answers.
        seconds_a_word: How long the model takes for each.
        status: Another HTTP status than Flowise's own, as of a gateway before it, with `fails` as its text.
        reached: The flow has answered all the same, and the gateway lost it.
    """

    text: str | Callable[[ModelCall], str] = "Hello from the flow"
    tools: tuple[dict[str, Any], ...] = ()
    documents: tuple[dict[str, Any], ...] = ()
    fails: str | None = None
    hangs: bool = False
    breaks: bool = False
    after: int = 0
    asks: bool = False
    feedback: bool = False
    seconds_a_word: float = 0.0
    status: int = 200
    reached: bool = False
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    raw: bytes | None = None
    loses_answer: bool = False


@dataclass
class Flow:
    """A flow of the server. `enabled` is what its owner switched on: node label -> parameters."""

    id: str
    name: str
    kind: Kind
    nodes: tuple[Node, ...]
    api_key: str | None = None
    enabled: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    variables: tuple[str, ...] = ()
    good_keys: frozenset[str] | None = None
    refused_keys: frozenset[str] = frozenset()
    streamable: bool = True
    turns: deque[Turn] = field(default_factory=deque[Turn])

    def row(self) -> dict[str, Any]:
        overrides = {
            "status": bool(self.enabled or self.variables),
            "nodes": {
                label: [{"label": name, "name": name, "type": "string", "enabled": True} for name in names]
                for label, names in self.enabled.items()
            },
            "variables": [
                {"id": str(uuid4()), "name": name, "type": "static", "enabled": True} for name in self.variables
            ],
        }
        return {
            "id": self.id,
            "name": self.name,
            "type": self.kind,
            "deployed": True,
            "isPublic": False,
            "apikeyid": self.api_key and "key-of-the-flow",
            "category": None,
            "flowData": json.dumps({"nodes": [], "edges": []}),
            "apiConfig": json.dumps({"overrideConfig": overrides}),
            "chatbotConfig": None,
        }


@dataclass
class Received:
    """A request as it came in."""

    method: str
    path: str
    headers: dict[str, str]
    query: dict[str, str]
    body: Any


@dataclass
class Talk:
    """A prediction at work; it goes on whoever listens."""

    flow: Flow
    turn: Turn
    call: ModelCall
    chat_id: str
    session_id: str
    body: dict[str, Any]
    execution: dict[str, Any] | None
    resumes: bool
    stopped: threading.Event = field(default_factory=threading.Event)


def model_call(flow: Flow, body: dict[str, Any]) -> ModelCall:
    """What the model is sent, after the overrides that the flow's owner enabled; all others are dropped silently."""
    overrides: dict[str, Any] = body.get("overrideConfig") or {}
    settings: dict[str, Any] = {}
    for node in flow.nodes:
        for name in flow.enabled.get(node.label, ()):
            value: Any = overrides.get(name)
            ids = {one.id for one in flow.nodes}
            if isinstance(value, dict) and value and set(cast("dict[str, Any]", value)) <= ids:
                value = cast("dict[str, Any]", value).get(node.id)
            if value is not None:
                settings.update(cast("dict[str, Any]", value) if name == "llmModelConfig" else {name: value})
    variables: dict[str, Any] = defaultdict[str, Any](str)
    given = cast("dict[str, Any]", overrides.get("vars") or {})
    variables.update({name: value for name, value in given.items() if name in flow.variables})
    question = body.get("question")
    if question is None:
        question = "undefined" if "form" not in body else json.dumps(body["form"])
    return ModelCall(flow.id, settings.get("openAIApiKey", STORED_KEY), question, settings, dict(variables))
