"""What the stand-in says, as Flowise 3.1.4 says it: events, bodies, errors."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

from starlette.responses import JSONResponse, Response

from local.stand_ins.flowise.flows import (
    Node,
    Talk,
)


def no_resuming(session: list[dict[str, Any]], session_id: str) -> str:
    if not session:
        return f"No previous execution found for session {session_id}"
    last = session[-1]
    return (
        f"Cannot resume execution {last['id']} because it is in '{last['state']}' state. "
        "Only executions in 'STOPPED' state (or 'ERROR' after 'STOPPED') can be resumed."
    )


def text_of(talk: Talk) -> str:
    if talk.resumes:
        answered = talk.body["humanInput"]
        return f"{answered['type']}: {answered.get('feedback', '')}".strip()
    return talk.turn.text(talk.call) if callable(talk.turn.text) else talk.turn.text


def executed_data(talk: Talk, text: str, state: str) -> list[dict[str, Any]]:
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


def action(talk: Talk) -> dict[str, Any]:
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


def closing(talk: Talk, body: dict[str, Any]) -> list[bytes]:
    """What a stream ends with, before `end`."""
    events: list[bytes] = []
    if talk.turn.tools:
        events.append(frame("usedTools", list(talk.turn.tools)))
    if talk.turn.documents:
        events.append(frame("sourceDocuments", list(talk.turn.documents)))
    if talk.execution is not None:
        status = "STOPPED" if "action" in body else "FINISHED"
        executed = body["agentFlowExecutedData"]
        events += [
            frame("usageMetadata", executed[0]["data"]["output"]["usageMetadata"]),
            node_event(talk.flow.nodes[1], status),
            frame("agentFlowExecutedData", executed),
        ]
        if "action" in body:
            events.append(frame("action", body["action"]))
        events.append(frame("agentFlowEvent", status))
    names = ("chatId", "chatMessageId", "question", "sessionId", "memoryType", "action")
    events.append(frame("metadata", {name: body[name] for name in names if name in body}))
    return events


def frame(event: str, data: Any) -> bytes:
    # JSON.stringify escapes neither U+2028 nor anything else that only looks like the end of a line.
    return f"message:\ndata:{json.dumps({'event': event, 'data': data}, ensure_ascii=False)}\n\n".encode()


def node_event(node: Node, status: str) -> bytes:
    return frame("nextAgentFlow", {"nodeId": node.id, "nodeLabel": node.label, "status": status})


def refused(message: str, *, streams: bool) -> Response:
    if not streams:
        return error(500, message)
    body = frame("error", message) + frame("end", "[DONE]")
    return Response(body, media_type="text/event-stream")


def error(status: int, message: str) -> Response:
    return JSONResponse({"statusCode": status, "success": False, "message": message, "stack": {}}, status)


def unauthorized() -> Response:
    return JSONResponse({"error": "Unauthorized Access"}, 401)


async def cut() -> AsyncIterator[bytes]:
    yield b'{"text": "half'
    raise ConnectionAbortedError("scripted")


def timestamp(number: int) -> str:
    return f"2026-01-01T00:00:00.{number:03}Z"
