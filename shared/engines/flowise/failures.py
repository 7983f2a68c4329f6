"""What a failure of Flowise means for us. Its HTTP status says little, so it is told by the message.

A wrong flow key is HTTP 500, and so is a model's refusal of a key; in a stream both come inside HTTP 200. What Flowise
says may hold keys and other people's words: it never becomes a message of ours, only an excerpt in `details`, with
everything that looks like a key cut out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from shared.errors import AppError, Upstream, UpstreamBusy, UpstreamRefused
from shared.llm.failures import retry_after, without_keys

_EXCERPT_CHARACTERS: Final = 300


class FlowKeyRefused(UpstreamRefused):
    """The flow wants an API key of its server, and another one or none was sent."""

    code = "flow_key_refused"


class FlowiseKeyRefused(UpstreamRefused):
    """The server refuses the key, or the key may not do this."""

    code = "flowise_key_refused"


class ModelKeyRefused(UpstreamRefused):
    """The provider behind the flow refuses the key that the flow used."""

    code = "model_key_refused"


class ModelUnavailable(Upstream):
    """The provider behind the flow is busy or away; Flowise has tried it several times already."""

    code = "model_unavailable"
    retryable = True


class FlowUnknown(UpstreamRefused):
    """The server has no such flow."""

    code = "flow_unknown"


class FlowFailed(UpstreamRefused):
    """A node of the flow failed."""

    code = "flow_failed"


class FlowAborted(UpstreamRefused):
    """Somebody aborted the flow at the server."""

    code = "flow_aborted"


class FlowNotWaiting(UpstreamRefused):
    """The flow does not wait for a person (any more)."""

    code = "flow_not_waiting"


class NotFlowise(UpstreamRefused):
    """What answers there is not Flowise's API."""

    code = "not_flowise"


class InjectionDenied(UpstreamRefused):
    """The flow would not use the credential that the agent gives it."""

    code = "injection_denied"


class AnswerLost(Upstream):
    """The answer was lost after the request was sent: the flow may be running, or have answered."""

    code = "answer_lost"


_CANCELLED = re.compile(r"(?i)AbortError|\bwas cancelled\b|\baborted\b")
_NOT_FOUND = re.compile(r"(?i)not found in the database|Invalid Chatflow ID|Execution \S+ not found")
_NOT_WAITING = re.compile(r"(?i)No previous execution found|Cannot resume execution")
_FLOW_KEY = re.compile(r"(?i)buildChatflow - Unauthorized\s*$|^\s*Unauthorized\s*$")
_MODEL_KEY = re.compile(
    r"(?i)\b401\b|\b(?:incorrect|invalid|wrong)[ _](?:x-)?api[ _-]?key|AuthenticationError|authentication[ _]error"
    r"|check your API key|API key not valid"
)
_MODEL_AWAY = re.compile(
    r"(?i)\b(?:429|5\d\d)\b|rate[ _]limit|overloaded|\bterminated\b|fetch failed|socket hang up|ECONN\w+|ETIMEDOUT"
    r"|ENOTFOUND|Connection error|Request timed out"
)


def failure(  # noqa: PLR0911 - one return for each thing it can mean
    message: str, *, status: int = 500, headers: Mapping[str, str] | None = None, starts: bool = True
) -> AppError:
    """The error of ours that an answer of this status and message is; an error in a stream has status 500.

    `starts`: the request may have started something at the server.
    """
    excerpt = without_keys(message)[:_EXCERPT_CHARACTERS] or None
    if status == 429:
        return UpstreamBusy(
            "The flow limits how often it may be asked.",
            details=excerpt,
            retry_after_seconds=retry_after(headers or {}),
        )
    if status in {408, 502, 504} and starts:
        # What a gateway says whose server broke off or was silent: it may have passed the request on.
        return AnswerLost("A gateway before Flowise lost the flow's answer.", details=excerpt)
    if status in {408, 502, 503, 504}:
        return UpstreamBusy(
            "Flowise is busy or not running.", details=excerpt, retry_after_seconds=retry_after(headers or {})
        )
    if _NOT_FOUND.search(message):
        return FlowUnknown("Flowise has no such flow or execution.", details=excerpt)
    if status == 401:
        return FlowiseKeyRefused(
            "Flowise refused the API key.", details=excerpt, hint="Check the key and its permissions."
        )
    if status == 403:
        return FlowiseKeyRefused(
            "Flowise does not let this key do that, or not from here.",
            details=excerpt,
            hint="Check the key's permissions and the flow's allowed origins.",
        )
    if status < 500:
        return UpstreamRefused(f"Flowise refused the request ({status}).", details=excerpt)
    return _in_flow(message, excerpt)


def _in_flow(message: str, excerpt: str | None) -> AppError:
    if _FLOW_KEY.search(message):
        return FlowKeyRefused(
            "The flow is protected by an API key, and it refused ours.",
            details=excerpt,
            hint="The agent's flowise credential must hold the key that the flow was given.",
        )
    if _NOT_WAITING.search(message):
        return FlowNotWaiting("The flow does not wait for an answer any more.", details=excerpt)
    if _CANCELLED.search(message):
        return FlowAborted("The flow was aborted at the server.", details=excerpt)
    if _MODEL_KEY.search(message):
        return ModelKeyRefused(
            "The provider behind the flow refused the API key.", details=excerpt, hint="Test the credential."
        )
    if _MODEL_AWAY.search(message):
        return ModelUnavailable("The provider behind the flow is busy or cannot be reached.", details=excerpt)
    return FlowFailed("A node of the flow failed.", details=excerpt)
