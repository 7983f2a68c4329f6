"""The demo in a terminal: log lines as they come, below them the plan and what it costs so far, at the end the results.

Without a terminal the same is printed plainly, and nothing is ever drawn over. Whatever the agent wrote is shown by
`printable` and never read as markup.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.spinner import Spinner
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from local.demo.board import Board, PhaseState
from local.demo.follow import Line
from local.demo.person import Json
from local.demo.text import one_line, printable

_PLAIN_WIDTH = 120
_SHOWN_LINES = 60  # of a file or of a program's output
_LOG_STYLES = {
    "success": "green",
    "tool_success": "green",
    "error": "bold red",
    "tool_error": "red",
    "warning": "yellow",
    "state_transition": "dim",
    "phase_advance": "bold cyan",
    "user_input_required": "bold magenta",
}
_MARKS: dict[PhaseState, tuple[str, str]] = {"done": ("[x]", "green"), "now": ("[>]", "bold"), "later": ("[ ]", "dim")}
_STATUS_STYLES = {"completed": "green", "failed": "red", "cancelled": "yellow", "skipped": "dim"}


class View:
    """Draws one demo. Not for two at a time."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        if not self.console.is_terminal:
            self.console.width = max(self.console.width, _PLAIN_WIDTH)
        self._live: Live | None = None
        self._began = time.monotonic()

    def fact(self, name: str, value: str) -> None:
        self._print(Text.assemble((f"{name:<8}", "bold"), printable(value)))

    def step(self, number: int, what: str) -> None:
        self._print(Text.assemble((f"{number:>2}. ", "bold"), printable(what)))

    @contextmanager
    def doing(self, what: str) -> Generator[None]:
        """Say what is going on while the block runs."""
        if self.console.is_terminal:
            with self.console.status(Text(what)):
                yield
        else:
            self._print(Text(f"{what} ..."))
            yield

    @contextmanager
    def following(self, board: Board) -> Generator[None]:
        """Keep the plan below the log lines while the block runs."""
        if not self.console.is_terminal:
            yield
            return
        live = Live(
            get_renderable=lambda: self._progress(board), console=self.console, refresh_per_second=8, transient=True
        )
        with live:
            self._live = live
            try:
                yield
            finally:
                self._live = None

    @contextmanager
    def asking(self) -> Generator[None]:
        """Leave the terminal to a question while the block runs."""
        live = self._live
        if live is not None:
            live.stop()
        try:
            yield
        finally:
            if live is not None:
                live.start()

    def line(self, line: Line) -> None:
        at = datetime.fromisoformat(line.created_at).astimezone().strftime("%H:%M:%S.%f")[:-3]
        style = _LOG_STYLES.get(line.log_type, "")
        self._print(Text.assemble((f"{at} ", "dim"), (f"{line.log_type:<16} ", style), one_line(line.message)))

    def question(self, prompt: str, options: list[str]) -> None:
        self._print(Text.assemble(("\nThe agent asks: ", "bold magenta"), printable(prompt)))
        for number, option in enumerate(options, start=1):
            self._print(Text(f"  {number}. {one_line(option)}"))

    def results(self, board: Board) -> None:
        """The whole run, once it has ended."""
        if board.phases:
            self._section("Plan", *_phases(board))
        self._section("Steps", _steps(board))
        if board.messages:
            self._section("Messages", *(Text(printable(message)) for message in board.messages))
        for name, artifact in board.artifacts.items():
            self._section(
                f"File {one_line(name)} ({artifact['size_bytes']} bytes)", self._code(name, artifact["content"])
            )
        for step_no, result in board.outputs():
            printed = result["stdout"] + result.get("stderr", "")
            self._section(
                f"Printed by the program of step {step_no} (exit {result['exit_code']})", Text(_shortened(printed))
            )
        self._verdict(board)

    def _verdict(self, board: Board) -> None:
        error: Json | None = board.run["error"]
        if error is not None:
            self._print(Text(f"\n{error.get('code', 'error')}: {one_line(error.get('message', ''))}", "red"))
        style = f"bold {_STATUS_STYLES.get(board.status, 'red')}"
        self._print(
            Text.assemble("\n", (board.status.capitalize(), style), f" in {self._took(board):.1f} s: {_tally(board)}.")
        )

    def _took(self, board: Board) -> float:
        started, finished = board.run.get("started_at"), board.run.get("finished_at")
        if not started or not finished:
            return time.monotonic() - self._began
        return (datetime.fromisoformat(finished) - datetime.fromisoformat(started)).total_seconds()

    def _progress(self, board: Board) -> RenderableType:
        status = Spinner("dots", Text(f"{board.status}: {_tally(board)}", "bold"))
        return Group(Text(), *_phases(board), status)

    def _code(self, name: str, content: str) -> RenderableType:
        shown = _shortened(content)
        if not self.console.is_terminal or self.console.no_color:
            return Text(shown)
        lexer = Syntax.guess_lexer(name, code=shown)
        return Syntax(shown, lexer, theme="ansi_dark", background_color="default", word_wrap=True)

    def _section(self, title: str, *content: RenderableType) -> None:
        self._print(Text(f"\n{title}", "bold"))
        for part in content:
            self._print(_indented(part))

    def _print(self, what: RenderableType) -> None:
        self.console.print(what, soft_wrap=isinstance(what, Text))


def _indented(part: RenderableType) -> RenderableType:
    """Text line by line, so that it keeps its own breaks however narrow the terminal is."""
    if isinstance(part, Text):
        return Text("\n").join(
            Text.assemble("  ", line) if line else line for line in part.split("\n", allow_blank=True)
        )
    return Padding(part, (0, 0, 0, 2), expand=False)


def _phases(board: Board) -> list[Text]:
    shown: list[Text] = []
    for title, state in board.plan():
        mark, style = _MARKS[state]
        shown.append(Text(f"{mark} {one_line(title)}", style))
    return shown


def _steps(board: Board) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    for step in board.steps:
        status = str(step["status"])
        table.add_row(
            Text(str(step["step_no"]), justify="right"),
            Text(one_line(step["kind"])),
            Text(one_line(step["name"])),
            Text(status, _STATUS_STYLES.get(status, "")),
            Text(_seconds(step["started_at"], step["finished_at"]), justify="right"),
            Text(f"{step['credits_spent']:.6f} credits", justify="right"),
        )
    return table


def _seconds(started: str | None, finished: str | None) -> str:
    if started is None or finished is None:
        return ""
    return f"{(datetime.fromisoformat(finished) - datetime.fromisoformat(started)).total_seconds():.2f} s"


def _tally(board: Board) -> str:
    count = len(board.steps)
    return f"{count} {'step' if count == 1 else 'steps'}, {board.credits:.6f} credits"


def _shortened(text: str) -> str:
    lines = printable(text).rstrip("\n").split("\n")
    rest = len(lines) - _SHOWN_LINES
    return "\n".join([*lines[:_SHOWN_LINES], *([f"... and {rest} more lines"] if rest > 0 else [])])
