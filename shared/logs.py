"""Structured logs: one event name plus fields, as one line of `key=value` for people or of JSON for machines.

Field values are short and never secrets; whoever logs decides what goes in. What an exception says nobody decides, so
every line is redacted as it is written: of shapes of keys, and of all values that this process has open.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Literal, cast

import orjson

from shared.redaction.redactor import redact_line

Format = Literal["text", "json"]
Field = str | int | float | bool | None

_FIELDS = "runbase_fields"  # the attribute of a LogRecord that carries the fields


class _Redacting(logging.Filter):
    """Redacts a record itself, whoever writes it down."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact_line(record.getMessage()), None
        if record.exc_info:
            record.exc_text = redact_line(_plain_format.formatException(record.exc_info))
        return True


_plain_format = logging.Formatter()
_redacting = _Redacting()


def logger(name: str) -> logging.Logger:
    """The standard library's logger. Its records are redacted also for handlers that are not ours, such as Lambda's."""
    named = logging.getLogger(name)
    named.addFilter(_redacting)
    return named


class Log:
    """A named logger of events. Cheap to make; make one a module."""

    def __init__(self, name: str) -> None:
        self._logger = logger(name)

    def debug(self, event: str, **fields: Field) -> None:
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Field) -> None:
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Field) -> None:
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, *, exc: BaseException | None = None, **fields: Field) -> None:
        """Log a failure; `exc` adds its traceback, which nobody outside the log sees."""
        self._write(logging.ERROR, event, fields, exc)

    def _write(self, level: int, event: str, fields: Mapping[str, Field], exc: BaseException | None = None) -> None:
        # The text is made here, so that a foreign handler (pytest, Lambda's own) shows the fields too.
        if self._logger.isEnabledFor(level):
            self._logger.log(level, _text(event, fields), exc_info=exc, extra={_FIELDS: (event, fields)})


def configure(*, level: str = "INFO", form: Format = "text") -> None:
    """Send all logs to standard error in one format. Called by a process's entry point, never by a library.

    Lambda and the test runner bring their own handler; on the root logger it is replaced.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_Json() if form == "json" else _Text("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)


def _text(event: str, fields: Mapping[str, Field]) -> str:
    return " ".join([event, *(f"{name}={_plain(value)}" for name, value in fields.items())])


def _plain(value: Field) -> str:
    """Quote what would not read back as one value: a space, a quote, a line break."""
    text = str(value)
    return text if text.isprintable() and not set(text) & {" ", '"', "="} else orjson.dumps(text).decode()


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redact_line(super().format(record))


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        empty: tuple[str, Mapping[str, Field]] = (record.getMessage(), {})
        event, fields = cast("tuple[str, Mapping[str, Field]]", getattr(record, _FIELDS, empty))
        line: dict[str, Field] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": event,
            **fields,
        }
        if record.exc_info:
            line["traceback"] = record.exc_text or self.formatException(record.exc_info)
        shown = {name: redact_line(value) if isinstance(value, str) else value for name, value in line.items()}
        return orjson.dumps(shown, default=str).decode()
