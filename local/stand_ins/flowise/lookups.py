"""What Flowise answers besides predictions, to who holds its key."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from local.stand_ins.flowise.flows import (
    Flow,
    Received,
    Talk,
)
from local.stand_ins.flowise.wire import (
    error,
    unauthorized,
)


class Lookups:
    """Flows, messages and executions of one server, and every request that came in."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.may: frozenset[str] = frozenset({"chatflows:view", "executions:view"})
        """What the server's key may do besides asking flows."""
        self.requests: list[Received] = []
        self.flows: dict[str, Flow] = {}
        self.messages: list[dict[str, Any]] = []
        self.executed: list[dict[str, Any]] = []
        self.talks: dict[str, Talk] = {}

    def routes(self) -> list[Route]:
        api = "/api/v1"
        return [
            Route(f"{api}/chatflows", self._list, methods=["GET"]),
            Route(f"{api}/chatflows/{{flow_id}}", self._one, methods=["GET"]),
            Route(f"{api}/chatflows-streaming/{{flow_id}}", self._streaming, methods=["GET"]),
            Route(f"{api}/flow-config/{{flow_id}}", self._config, methods=["GET"]),
            Route(f"{api}/chatmessage/abort/{{flow_id}}/{{chat_id}}", self._abort, methods=["PUT"]),
            Route(f"{api}/chatmessage/{{flow_id}}", self._messages, methods=["GET"]),
            Route(f"{api}/executions", self._executions, methods=["GET"]),
            Route(f"{api}/executions/{{execution_id}}", self._execution, methods=["GET"]),
            Route(f"{api}/version", self._version, methods=["GET"]),
            Route(f"{api}/ping", self._ping, methods=["GET"]),
            Route("/{rest:path}", self._page, methods=["GET", "POST", "PUT"]),
        ]

    async def _list(self, request: Request) -> Response:
        await self.receive(request)
        if not self._admits(request, "chatflows:view"):
            return unauthorized()
        kind, page = request.query_params.get("type"), request.query_params.get("page")
        rows = [flow.row() for flow in self.flows.values() if kind is None or flow.kind == kind]
        if page is None:
            return JSONResponse(rows)
        limit = int(request.query_params.get("limit", "10"))
        start = (int(page) - 1) * limit
        return JSONResponse({"data": rows[start : start + limit], "total": len(rows)})

    async def _one(self, request: Request) -> Response:
        await self.receive(request)
        if not self._admits(request, "chatflows:view"):
            return unauthorized()
        flow = self.flows.get(request.path_params["flow_id"])
        if flow is None:
            return error(404, f"Chatflow {request.path_params['flow_id']} not found in the database!")
        return JSONResponse(flow.row())

    async def _streaming(self, request: Request) -> Response:
        await self.receive(request)
        flow = self.flows.get(request.path_params["flow_id"])
        return JSONResponse({"isStreaming": flow is not None and flow.streamable})

    async def _config(self, request: Request) -> Response:
        await self.receive(request)
        if not self._admits(request):
            return unauthorized()
        flow = self.flows[request.path_params["flow_id"]]
        return JSONResponse(
            [
                {"node": node.label, "nodeId": node.id, "label": name, "name": name, "type": "string"}
                for node in flow.nodes
                for name in node.parameters
            ]
        )

    async def _abort(self, request: Request) -> Response:
        await self.receive(request)
        talk = self.talks.get(request.path_params["chat_id"])
        if talk is not None:
            talk.stopped.set()
        return JSONResponse({"status": 200, "message": "Chat message aborted"})

    async def _messages(self, request: Request) -> Response:
        await self.receive(request)
        if not self._admits(request):
            return unauthorized()
        query = request.query_params
        rows = [one for one in self.messages if one["chatflowid"] == request.path_params["flow_id"]]
        rows = [
            one for one in rows if all(one[name] == query[name] for name in ("chatId", "sessionId") if name in query)
        ]
        return JSONResponse(rows[::-1] if query.get("order") == "DESC" else rows)

    async def _executions(self, request: Request) -> Response:
        await self.receive(request)
        if not self._admits(request, "executions:view"):
            return unauthorized()
        names = ("agentflowId", "sessionId", "state")
        query = request.query_params
        rows = [one for one in self.executed if all(one[name] == query[name] for name in names if name in query)]
        return JSONResponse({"data": rows[::-1], "total": len(rows)})

    async def _execution(self, request: Request) -> Response:
        await self.receive(request)
        if not self._admits(request, "executions:view"):
            return unauthorized()
        wanted = request.path_params["execution_id"]
        found = next((one for one in self.executed if one["id"] == wanted), None)
        return error(500, f"Execution {wanted} not found") if found is None else JSONResponse(found)

    async def _version(self, request: Request) -> Response:
        await self.receive(request)
        return JSONResponse({"version": "3.1.4"})

    async def _ping(self, request: Request) -> Response:
        await self.receive(request)
        return HTMLResponse("pong")

    async def _page(self, request: Request) -> Response:
        await self.receive(request)
        return HTMLResponse("<!doctype html><title>Flowise</title><div id=root></div>")

    async def receive(self, request: Request) -> Received:
        raw = await request.body()
        body = json.loads(raw) if raw else None
        received = Received(request.method, request.url.path, dict(request.headers), dict(request.query_params), body)
        self.requests.append(received)
        return received

    def _admits(self, request: Request, *permissions: str) -> bool:
        return request.headers.get("authorization") == f"Bearer {self.key}" and self.may.issuperset(permissions)
