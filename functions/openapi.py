"""Write docs/openapi.json: `python -m functions.openapi`. A test holds the file to what the functions are."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import orjson

from functions.agent_execute.app import app as agent_execute
from functions.agent_logs.app import app as agent_logs
from functions.agent_status.app import app as agent_status
from functions.agents.app import app as agents
from functions.api_key_exchange.app import app as api_key_exchange
from functions.api_keys.app import app as api_keys
from functions.credential_test.app import app as credential_test
from functions.credentials.app import app as credentials
from functions.flowise_webhook.app import app as flowise_webhook
from functions.queue_drain.app import app as queue_drain
from shared.http import Endpoint
from shared.http.openapi import openapi

DOCUMENT: Final = Path(__file__).resolve().parent.parent / "docs" / "openapi.json"
ENDPOINTS: Final[tuple[Endpoint[Any], ...]] = (
    agent_execute,
    agent_status,
    agent_logs,
    agents,
    api_keys,
    api_key_exchange,
    credentials,
    credential_test,
    flowise_webhook,
    queue_drain,
)


def document() -> bytes:
    """The document as it is written."""
    described = openapi(ENDPOINTS, version="1")
    return orjson.dumps(described, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


if __name__ == "__main__":
    DOCUMENT.write_bytes(document())
