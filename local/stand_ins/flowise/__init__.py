"""A small server that speaks Flowise 3.1.4 as it was recorded, for tests.

Its framing of events, its errors inside HTTP 200 and 500, its silent denial of overrides, its echo of keys in what an
agentflow's nodes were given, its predictions that go on after the client has left: all of that is here, and none of its
nodes. A flow is said by the test, and so is what happens at each prediction (`Turn`). It records what arrived.
It runs in a thread of its own: tests may block, and workers in other processes may call it.
"""

from local.stand_ins.flowise.flows import (
    AGENT_NODES,
    CHAT_NODES,
    MODEL_REFUSES,
    SERVER_KEY,
    STORED_KEY,
    Flow,
    ModelCall,
    Node,
    Received,
    Turn,
)
from local.stand_ins.flowise.server import FlowiseServer

__all__ = [
    "AGENT_NODES",
    "CHAT_NODES",
    "MODEL_REFUSES",
    "SERVER_KEY",
    "STORED_KEY",
    "Flow",
    "FlowiseServer",
    "ModelCall",
    "Node",
    "Received",
    "Turn",
]
