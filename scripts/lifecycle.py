"""Draw the pictures of docs/lifecycle.md from the transition tables. `--check` only says whether they are current."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from shared.runs.status import RUN_TRANSITIONS, STEP_TRANSITIONS

PAGE = Path(__file__).parent.parent / "docs" / "lifecycle.md"


def picture(start: str, transitions: Mapping[str, frozenset[str]]) -> str:
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {start}"]
    for status, targets in transitions.items():
        lines += [f"    {status} --> {target}" for target in transitions if target in targets]
        lines += [] if targets else [f"    {status} --> [*]"]
    return "\n".join([*lines, "```"])


def page(text: str) -> str:
    for name, drawn in (("run", picture("created", RUN_TRANSITIONS)), ("step", picture("pending", STEP_TRANSITIONS))):
        pattern = rf"(<!-- {name} picture -->\n).*?(<!-- end -->)"
        text = re.sub(pattern, lambda found, drawn=drawn: f"{found[1]}{drawn}\n{found[2]}", text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    now = PAGE.read_text()
    if "--check" in sys.argv:
        sys.exit(0 if page(now) == now else "docs/lifecycle.md is not drawn from the tables: run scripts/lifecycle.py")
    PAGE.write_text(page(now))
