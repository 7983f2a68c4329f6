"""Takes secrets out of whatever leaves a step or a process, right before it becomes a row, a message, a log line."""

from shared.redaction.marks import MARK
from shared.redaction.redactor import Redactor, redact_json, redact_text
from shared.redaction.stream import StreamRedactor

__all__ = ["MARK", "Redactor", "StreamRedactor", "redact_json", "redact_text"]
