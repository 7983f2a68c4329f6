"""What is deployed is what is here: the SAM template and the folders of functions list the same endpoints."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEMPLATE = (ROOT / "infra" / "template.yaml").read_text()
FUNCTIONS = {path.parent.name for path in (ROOT / "functions").glob("*/app.py")}


def test_the_template_deploys_every_function_under_its_slug() -> None:
    assert set(re.findall(r"Handler: functions\.(\w+)\.app\.handler", TEMPLATE)) == FUNCTIONS
    paths = set(re.findall(r"Path: /functions/v1/([a-z-]+)", TEMPLATE))
    assert paths == {name.replace("_", "-") for name in FUNCTIONS}


def test_only_the_drain_gets_the_secret_key() -> None:
    """Each resource is a block of its own; the key's name stands in one."""
    blocks = re.split(r"\n  (?=[A-Z])", TEMPLATE.split("\nResources:")[1])
    holders = [block.split(":")[0].strip() for block in blocks if "SUPABASE_SECRET_KEYS:" in block]
    assert holders == ["QueueDrain"]
