"""A small server that speaks Flowise 3.1.4 as it was recorded, for tests.

Its framing of events, its errors inside HTTP 200 and 500, its silent denial of overrides, its echo of keys in what an
agentflow's nodes were given, its predictions that go on after the client has left: all of that is here, and none of its
nodes. A flow is said by the test, and so is what happens at each prediction (`Turn`). It records what arrived.
It runs in a thread of its own: tests may block, and workers in other processes may call it.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self
from uuid import UUID, uuid4

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

SERVER_KEY = "flowise-server-key-0123456789"
STORED_KEY = "sk-stored-at-flowise-0123456789"
MODEL_REFUSES = "401 Unauthorized – check your API key and ensure it is valid and has the required permissions"  # noqa: RUF001 - its own words
DEADLINE_SECONDS = 20.0

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
        status: Another HTTP status than Flowise's own, as of a gateway before it, with `fails` as its text.
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
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
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
    enabled: dict[str, tuple[str, ...]] = field(default_factory=dict)
    variables: tuple[str, ...] = ()
    good_keys: frozenset[str] | None = None
    refused_keys: frozenset[str] = frozenset()
    streamable: bool = True
    turns: deque[Turn] = field(default_factory=deque)

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
class _Talk:
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


class FlowiseServer:
    """Serves on a random port of this machine. What a test reads of it is what Flowise and its models were sent."""

    def __init__(self, key: str = SERVER_KEY) -> None:
        self.key = key
        self.may: frozenset[str] = frozenset({"chatflows:view", "executions:view"})
        """What the server's key may do besides asking flows."""
        self.requests: list[Received] = []
        self.calls: list[ModelCall] = []
        self.flows: dict[str, Flow] = {}
        self.messages: list[dict[str, Any]] = []
        self.executed: list[dict[str, Any]] = []
        self.heartbeat_seconds = 30.0
        self._talks: dict[str, _Talk] = {}
        self._listeners: dict[str, asyncio.Queue[bytes | None]] = {}
        self._released = threading.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        api = "/api/v1"
        routes = [
            Route(f"{api}/prediction/{{flow_id}}", self._predict, methods=["POST"]),
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
        self._socket = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(
            Starlette(routes=routes), log_level="critical", lifespan="off", loop="asyncio", ws="none"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)

    # -- what a test says and asks ----------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def chatflow(self, *turns: Turn, **options: Any) -> Flow:
        return self._add("CHATFLOW", CHAT_NODES, turns, options)

    def agentflow(self, *turns: Turn, **options: Any) -> Flow:
        return self._add("AGENTFLOW", AGENT_NODES, turns, options)

    def release(self) -> None:
        """Let what hangs, now and later, go on."""
        self._released.set()

    @property
    def predictions(self) -> list[Received]:
        return [one for one in self.requests if "/prediction/" in one.path]

    @property
    def aborted(self) -> list[str]:
        """The chat ids that somebody asked to abort."""
        return [one.path.rpartition("/")[2] for one in self.requests if "/chatmessage/abort/" in one.path]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for `condition`, for instance that a request has arrived.

        Raises:
            TimeoutError: it did not become true by the deadline.
        """
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError("the condition did not become true")
            await asyncio.sleep(0.01)

    def __enter__(self) -> Self:
        self._thread.start()
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not self._server.started:
            if time.monotonic() > deadline or not self._thread.is_alive():
                raise TimeoutError("the Flowise server did not start")
            time.sleep(0.005)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join(DEADLINE_SECONDS)
        self._socket.close()

    def _add(self, kind: Kind, nodes: tuple[Node, ...], turns: tuple[Turn, ...], options: dict[str, Any]) -> Flow:
        flow = Flow(str(uuid4()), options.pop("name", f"A {kind.lower()}"), kind, nodes, **options)
        flow.turns.extend(turns)
        self.flows[flow.id] = flow
        return flow

    # -- predictions ------------------------------------------------------------------------------------------------

    async def _predict(self, request: Request) -> Response:  # noqa: PLR0911 - one return for each answer
        received = await self._receive(request)
        flow_id = request.path_params["flow_id"]
        try:
            UUID(flow_id)
        except ValueError:
            return _error(400, "Error: predictionsServices.buildChatflow - Invalid Chatflow ID")
        flow = self.flows.get(flow_id)
        if flow is None:
            return _error(404, f"Chatflow {flow_id} not found in the database!")
        if received.body is None:
            return _error(412, "Error: predictionsController.createPrediction - body not provided!")
        body: dict[str, Any] = received.body
        streams = bool(body.get("streaming")) and flow.streamable
        if flow.api_key is not None and request.headers.get("authorization") != f"Bearer {flow.api_key}":
            return _refused("Error: predictionsServices.buildChatflow - Unauthorized", streams=streams)
        turn = flow.turns.popleft() if flow.turns else Turn()
        if turn.raw is not None:
            return Response(turn.raw, turn.status, turn.headers)
        if turn.status != 200:
            return HTMLResponse(turn.fails or "", turn.status, turn.headers)
        talk = self._begin(flow, turn, body)
        if isinstance(talk, str):
            return _refused(talk, streams=streams)
        return self._stream_of(talk) if streams else await self._answer(talk)

    def _begin(self, flow: Flow, turn: Turn, body: dict[str, Any]) -> _Talk | str:
        overrides = body.get("overrideConfig") or {}
        chat_id = body.get("chatId") or overrides.get("sessionId") or str(uuid4())
        session_id = overrides.get("sessionId") or chat_id
        resumes = "humanInput" in body
        execution = None
        if flow.kind == "AGENTFLOW":
            session = [one for one in self.executed if (one["sessionId"], one["agentflowId"]) == (session_id, flow.id)]
            waiting = [one for one in session if one["state"] == "STOPPED"]
            if resumes and not waiting:
                return f"Error: predictionsServices.buildChatflow - {_no_resuming(session, session_id)}"
            execution = waiting[-1] if resumes else self._new_execution(flow, session_id)
            execution["state"] = "INPROGRESS"
        call = _model_call(flow, body)
        self.calls.append(call)
        talk = _Talk(flow, turn, call, chat_id, session_id, body, execution, resumes)
        self._talks[chat_id] = talk
        if call.key in flow.refused_keys or (flow.good_keys is not None and call.key not in flow.good_keys):
            return self._ended(talk, "ERROR", MODEL_REFUSES)
        return talk

    def _new_execution(self, flow: Flow, session_id: str) -> dict[str, Any]:
        execution = {
            "id": str(uuid4()),
            "executionData": "[]",
            "state": "INPROGRESS",
            "agentflowId": flow.id,
            "sessionId": session_id,
            "action": None,
            "createdDate": _now(len(self.executed)),
            "stoppedDate": None,
        }
        self.executed.append(execution)
        return execution

    def _ended(self, talk: _Talk, state: str, message: str = "") -> str:
        if talk.execution is not None:
            talk.execution["state"] = state
            talk.execution["executionData"] = json.dumps(_executed_data(talk, "", state))
        return message

    async def _answer(self, talk: _Talk) -> Response:
        error = await self._work(talk, lambda _: None)
        if error is not None:
            return _error(500, error)
        if talk.turn.breaks:
            return StreamingResponse(_cut(), media_type="application/json")
        return JSONResponse(self._body(talk))

    def _stream_of(self, talk: _Talk) -> Response:
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        # Of two streams with one chat id the first loses its listener, and never ends.
        self._listeners[talk.chat_id] = queue
        task = asyncio.get_running_loop().create_task(self._talk_on(talk))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return StreamingResponse(self._listen(queue), media_type="text/event-stream", headers=headers)

    async def _listen(self, queue: asyncio.Queue[bytes | None]) -> AsyncIterator[bytes]:
        while True:
            try:
                async with asyncio.timeout(self.heartbeat_seconds):
                    piece = await queue.get()
            except TimeoutError:
                yield b":heartbeat\n\n"
                continue
            if piece is None:
                raise ConnectionAbortedError("scripted")
            if piece == b"":
                return
            yield piece

    async def _talk_on(self, talk: _Talk) -> None:
        def tell(piece: bytes | None) -> None:
            self._listeners[talk.chat_id].put_nowait(piece)

        agentflow = talk.flow.kind == "AGENTFLOW"
        if agentflow:
            tell(_frame("agentFlowEvent", "INPROGRESS"))
        elif not talk.turn.fails:
            tell(_frame("start", ""))
        error = await self._work(talk, tell)
        if error is not None:
            if agentflow:
                tell(_frame("agentFlowEvent", "ERROR"))
            tell(_frame("error", error))
        else:
            body = self._body(talk)
            for event in _closing(talk, body):
                tell(event)
        tell(_frame("end", "[DONE]"))
        tell(b"")

    async def _work(self, talk: _Talk, tell: Callable[[bytes | None], None]) -> str | None:
        """Go through the flow, and store what came of it; the error's text, if it failed."""
        turn = talk.turn
        if talk.flow.kind == "AGENTFLOW":
            tell(_node(talk.flow.nodes[0], "INPROGRESS"))
            tell(_node(talk.flow.nodes[0], "FINISHED"))
            tell(_node(talk.flow.nodes[1], "INPROGRESS"))
        words = _text_of(talk).split(" ")
        for number, word in enumerate(words):
            if number == turn.after and turn.breaks:
                tell(None)
            if number == turn.after and turn.hangs and not await self._freed(talk):
                self._ended(talk, "ERROR")
                return "Error: predictionsServices.buildChatflow - Error in LLM node: AbortError"
            if turn.fails is None or number < turn.after:
                tell(_frame("token", word if number == 0 else f" {word}"))
        if turn.fails is not None:
            return self._ended(talk, "ERROR", f"Error: predictionsServices.buildChatflow - {turn.fails}")
        self._ended(talk, "STOPPED" if self._asks(talk) else "FINISHED")
        self._store(talk)
        return None

    def _asks(self, talk: _Talk) -> bool:
        return talk.turn.asks and talk.flow.kind == "AGENTFLOW"

    async def _freed(self, talk: _Talk) -> bool:
        """Wait; False when an agentflow was aborted meanwhile. A chatflow is not to be aborted."""
        while not self._released.is_set():
            if talk.stopped.is_set() and talk.flow.kind == "AGENTFLOW":
                return False
            await asyncio.sleep(0.01)
        return True

    def _store(self, talk: _Talk) -> None:
        if talk.turn.loses_answer:
            return
        common = {
            "chatflowid": talk.flow.id,
            "chatId": talk.chat_id,
            "sessionId": talk.session_id,
            "executionId": talk.execution and talk.execution["id"],
            "chatType": "EXTERNAL",
        }
        for role, content in (("userMessage", talk.call.question), ("apiMessage", _text_of(talk))):
            message = {"id": str(uuid4()), "role": role, "content": content, **common}
            message["createdDate"] = _now(len(self.messages))
            if role == "apiMessage":
                message["usedTools"] = json.dumps(talk.turn.tools) if talk.turn.tools else None
                message["sourceDocuments"] = json.dumps(talk.turn.documents) if talk.turn.documents else None
                message["action"] = json.dumps(_action(talk)) if self._asks(talk) else None
            self.messages.append(message)

    def _body(self, talk: _Talk) -> dict[str, Any]:
        stored = next((one for one in reversed(self.messages) if one["chatId"] == talk.chat_id), {"id": str(uuid4())})
        body: dict[str, Any] = {
            "text": _text_of(talk),
            "question": talk.call.question,
            "chatId": talk.chat_id,
            "chatMessageId": stored["id"],
            "isStreamValid": False,
            "sessionId": talk.session_id,
        }
        if talk.turn.tools:
            body["usedTools"] = list(talk.turn.tools)
        if talk.turn.documents:
            body["sourceDocuments"] = list(talk.turn.documents)
        if talk.execution is None:
            body["memoryType"] = "Buffer Memory"
            return body
        state = "STOPPED" if self._asks(talk) else "FINISHED"
        body["executionId"] = talk.execution["id"]
        body["agentFlowExecutedData"] = _executed_data(talk, _text_of(talk), state)
        if self._asks(talk):
            body["action"] = _action(talk)
        return body

    # -- around predictions -----------------------------------------------------------------------------------------

    async def _list(self, request: Request) -> Response:
        await self._receive(request)
        if not self._admits(request, "chatflows:view"):
            return _unauthorized()
        kind, page = request.query_params.get("type"), request.query_params.get("page")
        rows = [flow.row() for flow in self.flows.values() if kind is None or flow.kind == kind]
        if page is None:
            return JSONResponse(rows)
        limit = int(request.query_params.get("limit", "10"))
        start = (int(page) - 1) * limit
        return JSONResponse({"data": rows[start : start + limit], "total": len(rows)})

    async def _one(self, request: Request) -> Response:
        await self._receive(request)
        if not self._admits(request, "chatflows:view"):
            return _unauthorized()
        flow = self.flows.get(request.path_params["flow_id"])
        if flow is None:
            return _error(404, f"Chatflow {request.path_params['flow_id']} not found in the database!")
        return JSONResponse(flow.row())

    async def _streaming(self, request: Request) -> Response:
        await self._receive(request)
        flow = self.flows.get(request.path_params["flow_id"])
        return JSONResponse({"isStreaming": flow is not None and flow.streamable})

    async def _config(self, request: Request) -> Response:
        await self._receive(request)
        if not self._admits(request):
            return _unauthorized()
        flow = self.flows[request.path_params["flow_id"]]
        return JSONResponse(
            [
                {"node": node.label, "nodeId": node.id, "label": name, "name": name, "type": "string"}
                for node in flow.nodes
                for name in node.parameters
            ]
        )

    async def _abort(self, request: Request) -> Response:
        await self._receive(request)
        talk = self._talks.get(request.path_params["chat_id"])
        if talk is not None:
            talk.stopped.set()
        return JSONResponse({"status": 200, "message": "Chat message aborted"})

    async def _messages(self, request: Request) -> Response:
        await self._receive(request)
        if not self._admits(request):
            return _unauthorized()
        query = request.query_params
        rows = [one for one in self.messages if one["chatflowid"] == request.path_params["flow_id"]]
        rows = [
            one for one in rows if all(one[name] == query[name] for name in ("chatId", "sessionId") if name in query)
        ]
        return JSONResponse(rows[::-1] if query.get("order") == "DESC" else rows)

    async def _executions(self, request: Request) -> Response:
        await self._receive(request)
        if not self._admits(request, "executions:view"):
            return _unauthorized()
        names = ("agentflowId", "sessionId", "state")
        query = request.query_params
        rows = [one for one in self.executed if all(one[name] == query[name] for name in names if name in query)]
        return JSONResponse({"data": rows[::-1], "total": len(rows)})

    async def _execution(self, request: Request) -> Response:
        await self._receive(request)
        if not self._admits(request, "executions:view"):
            return _unauthorized()
        wanted = request.path_params["execution_id"]
        found = next((one for one in self.executed if one["id"] == wanted), None)
        return _error(500, f"Execution {wanted} not found") if found is None else JSONResponse(found)

    async def _version(self, request: Request) -> Response:
        await self._receive(request)
        return JSONResponse({"version": "3.1.4"})

    async def _ping(self, request: Request) -> Response:
        await self._receive(request)
        return HTMLResponse("pong")

    async def _page(self, request: Request) -> Response:
        await self._receive(request)
        return HTMLResponse("<!doctype html><title>Flowise</title><div id=root></div>")

    async def _receive(self, request: Request) -> Received:
        raw = await request.body()
        body = json.loads(raw) if raw else None
        received = Received(request.method, request.url.path, dict(request.headers), dict(request.query_params), body)
        self.requests.append(received)
        return received

    def _admits(self, request: Request, *permissions: str) -> bool:
        return request.headers.get("authorization") == f"Bearer {self.key}" and self.may.issuperset(permissions)


def _model_call(flow: Flow, body: dict[str, Any]) -> ModelCall:
    """What the model is sent, after the overrides that the flow's owner enabled; all others are dropped silently."""
    overrides: dict[str, Any] = body.get("overrideConfig") or {}
    settings: dict[str, Any] = {}
    for node in flow.nodes:
        for name in flow.enabled.get(node.label, ()):
            value = overrides.get(name)
            ids = {one.id for one in flow.nodes}
            if isinstance(value, dict) and value and set(value) <= ids:
                value = value.get(node.id)
            if value is not None:
                settings.update(value if name == "llmModelConfig" else {name: value})
    variables: dict[str, Any] = defaultdict(str)
    variables.update({n: v for n, v in (overrides.get("vars") or {}).items() if n in flow.variables})
    question = body.get("question")
    if question is None:
        question = "undefined" if "form" not in body else json.dumps(body["form"])
    return ModelCall(flow.id, settings.get("openAIApiKey", STORED_KEY), question, settings, dict(variables))


def _no_resuming(session: list[dict[str, Any]], session_id: str) -> str:
    if not session:
        return f"No previous execution found for session {session_id}"
    last = session[-1]
    return (
        f"Cannot resume execution {last['id']} because it is in '{last['state']}' state. "
        "Only executions in 'STOPPED' state (or 'ERROR' after 'STOPPED') can be resumed."
    )


def _text_of(talk: _Talk) -> str:
    if talk.resumes:
        answered = talk.body["humanInput"]
        return f"{answered['type']}: {answered.get('feedback', '')}".strip()
    return talk.turn.text(talk.call) if callable(talk.turn.text) else talk.turn.text


def _executed_data(talk: _Talk, text: str, state: str) -> list[dict[str, Any]]:
    """What the nodes did, with what they were given: overridden keys in clear."""
    llm = talk.flow.nodes[1]
    usage = {"input_tokens": 12, "output_tokens": 5, "total_tokens": 17}
    return [
        {
            "nodeId": llm.id,
            "nodeLabel": llm.label,
            "data": {
                "id": llm.id,
                "name": "llmAgentflow",
                "input": {"llmModelConfig": {"FLOWISE_CREDENTIAL_ID": "c-1", **talk.call.settings}},
                "output": {"content": text, "usageMetadata": usage},
                "state": {},
            },
            "previousNodeIds": [],
            "status": state,
        }
    ]


def _action(talk: _Talk) -> dict[str, Any]:
    return {
        "id": str(uuid4()),
        "mapping": {"approve": "Proceed", "reject": "Reject"},
        "elements": [
            {"type": "agentflowv2-approve-button", "label": "Proceed"},
            {"type": "agentflowv2-reject-button", "label": "Reject"},
        ],
        "data": {
            "nodeId": "humanInputAgentflow_0",
            "nodeLabel": "Human Input",
            "input": {"humanInputEnableFeedback": talk.turn.feedback},
        },
    }


def _closing(talk: _Talk, body: dict[str, Any]) -> list[bytes]:
    """What a stream ends with, before `end`."""
    events: list[bytes] = []
    if talk.turn.tools:
        events.append(_frame("usedTools", list(talk.turn.tools)))
    if talk.turn.documents:
        events.append(_frame("sourceDocuments", list(talk.turn.documents)))
    if talk.execution is not None:
        status = "STOPPED" if "action" in body else "FINISHED"
        executed = body["agentFlowExecutedData"]
        events += [
            _frame("usageMetadata", executed[0]["data"]["output"]["usageMetadata"]),
            _node(talk.flow.nodes[1], status),
            _frame("agentFlowExecutedData", executed),
        ]
        if "action" in body:
            events.append(_frame("action", body["action"]))
        events.append(_frame("agentFlowEvent", status))
    names = ("chatId", "chatMessageId", "question", "sessionId", "memoryType", "action")
    events.append(_frame("metadata", {name: body[name] for name in names if name in body}))
    return events


def _frame(event: str, data: Any) -> bytes:
    # JSON.stringify escapes neither U+2028 nor anything else that only looks like the end of a line.
    return f"message:\ndata:{json.dumps({'event': event, 'data': data}, ensure_ascii=False)}\n\n".encode()


def _node(node: Node, status: str) -> bytes:
    return _frame("nextAgentFlow", {"nodeId": node.id, "nodeLabel": node.label, "status": status})


def _refused(message: str, *, streams: bool) -> Response:
    if not streams:
        return _error(500, message)
    body = _frame("error", message) + _frame("end", "[DONE]")
    return Response(body, media_type="text/event-stream")


def _error(status: int, message: str) -> Response:
    return JSONResponse({"statusCode": status, "success": False, "message": message, "stack": {}}, status)


def _unauthorized() -> Response:
    return JSONResponse({"error": "Unauthorized Access"}, 401)


async def _cut() -> AsyncIterator[bytes]:
    yield b'{"text": "half'
    raise ConnectionAbortedError("scripted")


def _now(number: int) -> str:
    return f"2026-01-01T00:00:00.{number:03}Z"
