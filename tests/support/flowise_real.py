"""The bench that is a real Flowise, started by `scripts/flowise-check`; its models are a model server here.

Flows are made over the API that Flowise's own editor uses: a node is its definition with the inputs filled in, and a
link between two nodes of a chatflow stands twice, as an edge and as an input.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx

from local.stand_ins.flowise import STORED_KEY
from tests.support.flowise_bench import ANSWER, REFUSED_KEY, Bench
from tests.support.model_server import ModelServer, Received, Reply

URL: Final = "FLOWISE_CHECK_URL"
EMAIL: Final = "admin@example.com"
PASSWORD: Final = "Passw0rd!x"  # of a server that lives as long as the check
_HANGS: Final = "a-model-that-hangs"


@asynccontextmanager
async def real_bench() -> AsyncGenerator[Bench | None]:
    """The real server of the environment, or None."""
    url = os.environ.get(URL)
    if url is None:
        yield None
        return
    headers = {"x-request-from": "internal"}
    async with httpx.AsyncClient(base_url=f"{url}/api/v1", headers=headers, timeout=30) as admin:
        with ModelServer() as models:
            models.otherwise = _reply
            yield await _Real(url, admin, models).ready()


def _reply(received: Received) -> Reply:
    if received.headers.get("authorization") == f"Bearer {REFUSED_KEY}":
        return Reply.error(401, message="Incorrect API key provided", kind="invalid_api_key")
    return Reply.hang("Hello from") if received.body["model"] == _HANGS else Reply.text(ANSWER)


class _Real:
    server_key = ""

    def __init__(self, url: str, admin: httpx.AsyncClient, models: ModelServer) -> None:
        self.url = url
        self._admin = admin
        self._models = models
        self._credential = ""

    async def ready(self) -> Bench:
        """Have an account, a key that may look, and the models' key as a stored credential."""
        await self._admin.post(
            "/account/register", json={"user": {"name": "Admin", "email": EMAIL, "credential": PASSWORD}}
        )
        (await self._admin.post("/auth/login", json={"email": EMAIL, "password": PASSWORD})).raise_for_status()
        permissions = await self._get("/auth/permissions/API_KEY")
        names = [one["key"] for group in permissions.values() for one in group]
        wanted = [name for name in names if name.split(":")[0] in {"chatflows", "agentflows", "executions"}]
        keys = await self._post("/apikey", {"keyName": "check", "permissions": wanted})
        self._key_id, self.server_key = keys[-1]["id"], keys[-1]["apiKey"]
        stored = {"name": "models", "credentialName": "openAIApi", "plainDataObj": {"openAIApiKey": STORED_KEY}}
        self._credential = (await self._post("/credentials", stored))["id"]
        return self

    async def chatflow(self, *, protected: bool = False, enabled: tuple[str, ...] = ()) -> str:
        model = await self._node("chatOpenAI", 0, self._model("gpt-4o-mini") | {"cache": ""})
        model["data"]["credential"] = self._credential
        memory = await self._node("bufferMemory", 0, {"memoryKey": "chat_history"})
        chain = await self._node(
            "conversationChain",
            0,
            {"model": "{{chatOpenAI_0.data.instance}}", "memory": "{{bufferMemory_0.data.instance}}"},
        )
        edges = [_edge("chatOpenAI_0", "conversationChain_0"), _edge("bufferMemory_0", "conversationChain_0")]
        more = {"apikeyid": self._key_id} if protected else {}
        return await self._flow("CHATFLOW", [model, memory, chain], edges, "ChatOpenAI", enabled, more)

    async def agentflow(self, *, enabled: tuple[str, ...] = ()) -> str:
        return await self._agentflow("gpt-4o-mini", enabled)

    async def hanging(self) -> str:
        return await self._agentflow(_HANGS, ())

    async def asking(self) -> str:
        start = await self._node("startAgentflow", 0, {"startInputType": "chatInput"}, kind="agentFlow")
        fixed = {
            "humanInputDescriptionType": "fixed",
            "humanInputDescription": "Go on?",
            "humanInputEnableFeedback": True,
        }
        asks = await self._node("humanInputAgentflow", 0, fixed, kind="agentFlow")
        replies = [
            await self._node("directReplyAgentflow", number, {"directReplyMessage": text}, kind="agentFlow")
            for number, text in enumerate(["It goes on", "It does not"])
        ]
        edges = [
            _flow_edge("startAgentflow_0", "humanInputAgentflow_0", "startAgentflow"),
            _flow_edge("humanInputAgentflow_0", "directReplyAgentflow_0", "0"),
            _flow_edge("humanInputAgentflow_0", "directReplyAgentflow_1", "1"),
        ]
        return await self._flow("AGENTFLOW", [start, asks, *replies], edges, "", (), {})

    def keys(self) -> list[str]:
        return [one.headers.get("authorization", "").removeprefix("Bearer ") for one in self._models.requests]

    async def _agentflow(self, model: str, enabled: tuple[str, ...]) -> str:
        start = await self._node("startAgentflow", 0, {"startInputType": "chatInput"}, kind="agentFlow")
        settings = self._model(model) | {"llmModel": "chatOpenAI", "FLOWISE_CREDENTIAL_ID": self._credential}
        inputs = {
            "llmModel": "chatOpenAI",
            "llmModelConfig": settings,
            "llmMessages": [],
            "llmEnableMemory": False,
            "llmReturnResponseAs": "assistantMessage",
        }
        asks = await self._node("llmAgentflow", 0, inputs, kind="agentFlow")
        edges = [_flow_edge("startAgentflow_0", "llmAgentflow_0", "startAgentflow")]
        return await self._flow("AGENTFLOW", [start, asks], edges, "LLM", enabled, {})

    def _model(self, name: str) -> dict[str, Any]:
        return {"modelName": name, "basepath": self._models.openai_url, "streaming": True, "temperature": 0}

    async def _node(
        self, name: str, number: int, inputs: Mapping[str, Any], *, kind: str = "customNode"
    ) -> dict[str, Any]:
        definition = await self._get(f"/nodes/{name}")
        node_id = f"{name}_{number}"
        entered = [definition["credential"]] if "credential" in definition else []
        entered += definition.get("inputs", [])
        listed = [{**one, "id": f"{node_id}-input-{one['name']}-{one['type']}"} for one in entered]
        # What is entered has a lower-case type; what is linked has the other node's class for its type.
        data = {
            **definition,
            "id": node_id,
            "inputParams": [one for one in listed if one["type"][0].islower()],
            "inputAnchors": [one for one in listed if not one["type"][0].islower()],
            "outputAnchors": [{"id": f"{node_id}-output", "name": name, "type": definition["baseClasses"][-1]}],
            "inputs": {**{one["name"]: one.get("default", "") for one in entered}, **inputs},
            "outputs": {},
            "selected": False,
        }
        return {"id": node_id, "type": kind, "position": {"x": 0, "y": 0}, "data": data}

    async def _flow(
        self,
        kind: str,
        nodes: list[dict[str, Any]],
        edges: list[dict[str, Any]],
        label: str,
        enabled: tuple[str, ...],
        more: Mapping[str, Any],
    ) -> str:
        named = next((node["data"]["label"] for node in nodes if node["data"]["label"] in {label, "OpenAI"}), label)
        parameters = [{"label": name, "name": name, "type": "string", "enabled": True} for name in enabled]
        overrides = {"status": bool(enabled), "nodes": {named: parameters} if enabled else {}, "variables": []}
        flow_data = {"nodes": nodes, "edges": edges, "viewport": {"x": 0, "y": 0, "zoom": 1}}
        row = {
            "name": f"Check {kind}",
            "type": kind,
            "flowData": json.dumps(flow_data),
            "apiConfig": json.dumps({"overrideConfig": overrides}),
            **more,
        }
        return (await self._post("/chatflows", row))["id"]

    async def _get(self, path: str) -> Any:
        return (await self._admin.get(path)).raise_for_status().json()

    async def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        return (await self._admin.post(path, json=body)).raise_for_status().json()


def _edge(source: str, target: str) -> dict[str, Any]:
    handles = {"sourceHandle": f"{source}-output", "targetHandle": f"{target}-input"}
    return {"id": f"{source}-{target}", "source": source, "target": target, "type": "buttonedge", **handles}


def _flow_edge(source: str, target: str, output: str) -> dict[str, Any]:
    handles = {"sourceHandle": f"{source}-output-{output}", "targetHandle": target}
    return {"id": f"{source}-{output}-{target}", "source": source, "target": target, "type": "agentFlow", **handles}
