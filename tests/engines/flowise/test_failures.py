"""What Flowise's failures are taken for. Messages are the recorded ones; where several say the same, the words vary."""

from __future__ import annotations

import pytest

from local.stand_ins.flowise import MODEL_REFUSES
from shared.engines.flowise.failures import failure
from shared.errors import RetryLater

BUILD = "Error: predictionsServices.buildChatflow - "
CASES = [
    (404, "Chatflow 1b7a not found in the database!", "flow_unknown", False),
    (400, f"{BUILD}Invalid Chatflow ID", "flow_unknown", False),
    (500, "Execution 1b7a not found", "flow_unknown", False),
    (412, "Error: predictionsController.createPrediction - body not provided!", "upstream_refused", False),
    (500, f"{BUILD}Unauthorized", "flow_key_refused", False),
    (500, f"{BUILD}{MODEL_REFUSES}", "model_key_refused", False),
    (500, f"{BUILD}401 Incorrect API key provided: sk-a*****bcd", "model_key_refused", False),
    (500, f"{BUILD}Error in LLM node: 401 Unauthorized", "model_key_refused", False),
    (500, f"{BUILD}500 stub exploded", "model_unavailable", True),
    (500, f"{BUILD}429 You exceeded your current quota", "model_unavailable", True),
    (500, f"{BUILD}terminated", "model_unavailable", True),
    (500, f"{BUILD}connect ECONNREFUSED 127.0.0.1:8099", "model_unavailable", True),
    (500, f"{BUILD}Error in LLM node: AbortError", "flow_aborted", False),
    (500, f"{BUILD}Flow execution was cancelled", "flow_aborted", False),
    (500, f"{BUILD}No previous execution found for session 7", "flow_not_waiting", False),
    (500, f"{BUILD}Cannot resume execution 7 because it is in 'FINISHED' state. Only ...", "flow_not_waiting", False),
    (500, f"{BUILD}flowStateArray is not iterable", "flow_failed", False),
    (500, "", "flow_failed", False),
    (401, "Unauthorized Access", "flowise_key_refused", False),
    (403, "This site is not allowed to access this chatbot", "flowise_key_refused", False),
    (413, "request entity too large", "upstream_refused", False),
    (429, "Slow down", "upstream_busy", True),
    (502, "<html>Bad Gateway", "answer_lost", False),
    (503, "", "upstream_busy", True),
    (504, "", "answer_lost", False),
    (408, "", "answer_lost", False),
]


@pytest.mark.parametrize(("status", "message", "code", "retryable"), CASES)
def test_each_failure_has_its_code(status: int, message: str, code: str, *, retryable: bool) -> None:
    error = failure(message, status=status)

    assert (error.code, error.retryable) == (code, retryable)


@pytest.mark.parametrize("status", [408, 502, 504])
def test_a_gateway_that_gives_up_on_what_starts_nothing_is_asked_again(status: int) -> None:
    error = failure("", status=status, starts=False)

    assert (error.code, error.retryable) == ("upstream_busy", True)


def test_the_server_says_when_to_come_back() -> None:
    error = failure("Slow down", status=429, headers={"retry-after": "7"})

    assert isinstance(error, RetryLater)
    assert error.retry_after_seconds == 7


@pytest.mark.parametrize("key", ["sk-proj-abcdefghijklmnop", "AIzaSyA1234567890abcdef", "Bearer abcdefghijklmnop"])
def test_a_key_in_what_it_says_is_not_passed_on(key: str) -> None:
    error = failure(f"{BUILD}401 Incorrect API key provided: {key}")

    assert key not in f"{error.message} {error.details} {error.hint}"
    assert "Incorrect API key" in (error.details or "")


def test_its_words_are_never_our_message() -> None:
    error = failure(f"{BUILD}x" * 1000)

    assert "predictionsServices" not in error.message
    assert len(error.details or "") <= 300
