"""The stand-in as a server, in a thread of its own: tests may block, and workers in other processes may call it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, cast
from uuid import UUID, uuid4

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from local.stand_ins.flowise.flows import (
    AGENT_NODES,
    CHAT_NODES,
    MODEL_REFUSES,
    SERVER_KEY,
    Flow,
    Kind,
    ModelCall,
    Node,
    Received,
    Talk,
    Turn,
    model_call,
)
from local.stand_ins.flowise.lookups import Lookups
from local.stand_ins.flowise.wire import (
    action,
    closing,
    cut,
    error,
    executed_data,
    frame,
    no_resuming,
    node_event,
    refused,
    text_of,
    timestamp,
)
from local.stand_ins.threaded import ThreadedServer


class FlowiseServer(Lookups, ThreadedServer):
    """Serves on a random port of this machine. What a test reads of it is what Flowise and its models were sent."""

    def __init__(self, key: str = SERVER_KEY) -> None:
        super().__init__(key)
        self.calls: list[ModelCall] = []
        self.heartbeat_seconds = 30.0
        self._listeners: dict[str, asyncio.Queue[bytes | None]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        routes = [Route("/api/v1/prediction/{flow_id}", self._predict, methods=["POST"]), *self.routes()]
        self.serve(routes)

    # -- what a test says and asks ----------------------------------------------------------------------------------

    def chatflow(self, *turns: Turn, **options: Any) -> Flow:
        return self._add("CHATFLOW", CHAT_NODES, turns, options)

    def agentflow(self, *turns: Turn, **options: Any) -> Flow:
        return self._add("AGENTFLOW", AGENT_NODES, turns, options)

    @property
    def predictions(self) -> list[Received]:
        return [one for one in self.requests if "/prediction/" in one.path]

    @property
    def aborted(self) -> list[str]:
        """The chat ids that somebody asked to abort."""
        return [one.path.rpartition("/")[2] for one in self.requests if "/chatmessage/abort/" in one.path]

    def _add(self, kind: Kind, nodes: tuple[Node, ...], turns: tuple[Turn, ...], options: dict[str, Any]) -> Flow:
        flow = Flow(str(uuid4()), options.pop("name", f"A {kind.lower()}"), kind, nodes, **options)
        flow.turns.extend(turns)
        self.flows[flow.id] = flow
        return flow

    # -- predictions ------------------------------------------------------------------------------------------------

    async def _predict(self, request: Request) -> Response:  # noqa: PLR0911 - one return for each answer
        received = await self.receive(request)
        flow_id = request.path_params["flow_id"]
        try:
            UUID(flow_id)
        except ValueError:
            return error(400, "Error: predictionsServices.buildChatflow - Invalid Chatflow ID")
        flow = self.flows.get(flow_id)
        if flow is None:
            return error(404, f"Chatflow {flow_id} not found in the database!")
        if received.body is None:
            return error(412, "Error: predictionsController.createPrediction - body not provided!")
        body: dict[str, Any] = received.body
        streams = bool(body.get("streaming")) and flow.streamable
        if flow.api_key is not None and request.headers.get("authorization") != f"Bearer {flow.api_key}":
            return refused("Error: predictionsServices.buildChatflow - Unauthorized", streams=streams)
        turn = flow.turns.popleft() if flow.turns else Turn()
        if turn.raw is not None:
            return Response(turn.raw, turn.status, turn.headers)
        if turn.status != 200:
            talk = self._begin(flow, turn, body) if turn.reached else None
            if isinstance(talk, Talk):
                await self._work(talk, lambda _: None)
            return HTMLResponse(turn.fails or "", turn.status, turn.headers)
        talk = self._begin(flow, turn, body)
        if isinstance(talk, str):
            return refused(talk, streams=streams)
        return self._stream_of(talk) if streams else await self._answer(talk)

    def _begin(self, flow: Flow, turn: Turn, body: dict[str, Any]) -> Talk | str:
        overrides = cast("dict[str, str]", body.get("overrideConfig") or {})
        chat_id: str = body.get("chatId") or overrides.get("sessionId") or str(uuid4())
        session_id = overrides.get("sessionId") or chat_id
        resumes = "humanInput" in body
        execution = None
        if flow.kind == "AGENTFLOW":
            session = [one for one in self.executed if (one["sessionId"], one["agentflowId"]) == (session_id, flow.id)]
            waiting = [one for one in session if one["state"] == "STOPPED"]
            if resumes and not waiting:
                return f"Error: predictionsServices.buildChatflow - {no_resuming(session, session_id)}"
            execution = waiting[-1] if resumes else self._new_execution(flow, session_id)
            execution["state"] = "INPROGRESS"
        call = model_call(flow, body)
        self.calls.append(call)
        talk = Talk(flow, turn, call, chat_id, session_id, body, execution, resumes)
        self.talks[chat_id] = talk
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
            "createdDate": timestamp(len(self.executed)),
            "stoppedDate": None,
        }
        self.executed.append(execution)
        return execution

    def _ended(self, talk: Talk, state: str, message: str = "") -> str:
        if talk.execution is not None:
            talk.execution["state"] = state
            talk.execution["executionData"] = json.dumps(executed_data(talk, "", state))
        return message

    async def _answer(self, talk: Talk) -> Response:
        failed = await self._work(talk, lambda _: None)
        if failed is not None:
            return error(500, failed)
        if talk.turn.breaks:
            return StreamingResponse(cut(), media_type="application/json")
        return JSONResponse(self._body(talk))

    def _stream_of(self, talk: Talk) -> Response:
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

    async def _talk_on(self, talk: Talk) -> None:
        def tell(piece: bytes | None) -> None:
            self._listeners[talk.chat_id].put_nowait(piece)

        agentflow = talk.flow.kind == "AGENTFLOW"
        if agentflow:
            tell(frame("agentFlowEvent", "INPROGRESS"))
        elif not talk.turn.fails:
            tell(frame("start", ""))
        failed = await self._work(talk, tell)
        if failed is not None:
            if agentflow:
                tell(frame("agentFlowEvent", "ERROR"))
            tell(frame("error", failed))
        else:
            body = self._body(talk)
            for event in closing(talk, body):
                tell(event)
        tell(frame("end", "[DONE]"))
        tell(b"")

    async def _work(self, talk: Talk, tell: Callable[[bytes | None], None]) -> str | None:
        """Go through the flow, and store what came of it; the error's text, if it failed."""
        turn = talk.turn
        if talk.flow.kind == "AGENTFLOW":
            tell(node_event(talk.flow.nodes[0], "INPROGRESS"))
            tell(node_event(talk.flow.nodes[0], "FINISHED"))
            tell(node_event(talk.flow.nodes[1], "INPROGRESS"))
        words = text_of(talk).split(" ")
        for number, word in enumerate(words):
            if number == turn.after and turn.breaks:
                tell(None)
            if number == turn.after and turn.hangs and not await self._freed(talk):
                self._ended(talk, "ERROR")
                return "Error: predictionsServices.buildChatflow - Error in LLM node: AbortError"
            if turn.fails is None or number < turn.after:
                tell(frame("token", word if number == 0 else f" {word}"))
                await asyncio.sleep(turn.seconds_a_word)
        if turn.fails is not None:
            return self._ended(talk, "ERROR", f"Error: predictionsServices.buildChatflow - {turn.fails}")
        self._ended(talk, "STOPPED" if self._asks(talk) else "FINISHED")
        self._store(talk)
        return None

    def _asks(self, talk: Talk) -> bool:
        return talk.turn.asks and talk.flow.kind == "AGENTFLOW"

    async def _freed(self, talk: Talk) -> bool:
        """Wait; False when an agentflow was aborted meanwhile. A chatflow is not to be aborted."""
        while not self._released.is_set():
            if talk.stopped.is_set() and talk.flow.kind == "AGENTFLOW":
                return False
            await asyncio.sleep(0.01)
        return True

    def _store(self, talk: Talk) -> None:
        if talk.turn.loses_answer:
            return
        common = {
            "chatflowid": talk.flow.id,
            "chatId": talk.chat_id,
            "sessionId": talk.session_id,
            "executionId": talk.execution and talk.execution["id"],
            "chatType": "EXTERNAL",
        }
        for role, content in (("userMessage", talk.call.question), ("apiMessage", text_of(talk))):
            message = {"id": str(uuid4()), "role": role, "content": content, **common}
            message["createdDate"] = timestamp(len(self.messages))
            if role == "apiMessage":
                message["usedTools"] = json.dumps(talk.turn.tools) if talk.turn.tools else None
                message["sourceDocuments"] = json.dumps(talk.turn.documents) if talk.turn.documents else None
                message["action"] = json.dumps(action(talk)) if self._asks(talk) else None
            self.messages.append(message)

    def _body(self, talk: Talk) -> dict[str, Any]:
        stored = next((one for one in reversed(self.messages) if one["chatId"] == talk.chat_id), {"id": str(uuid4())})
        body: dict[str, Any] = {
            "text": text_of(talk),
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
        body["agentFlowExecutedData"] = executed_data(talk, text_of(talk), state)
        if self._asks(talk):
            body["action"] = action(talk)
        return body
