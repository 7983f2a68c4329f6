"""Ask a running stack how it is, from outside."""

from __future__ import annotations

import httpx
from pydantic import ValidationError

from local.config import StackConfig
from local.errors import StackError
from local.status import Status

ANSWER_SECONDS = 10


def health(config: StackConfig) -> Status:
    """Ask a running stack how it is.

    Raises:
        StackError: its process is there, and its gateway does not answer as one.
    """
    try:
        # No proxy: what it would lead to is not this machine.
        with httpx.Client(timeout=ANSWER_SECONDS, trust_env=False) as client:
            answer = client.get(config.api_url, headers={"Accept": "application/json"})
        return Status.model_validate_json(answer.content)
    except (httpx.HTTPError, ValidationError) as exc:
        raise StackError(f"A stack runs over {config.data_dir}, but {config.api_url} does not answer.") from exc
