"""Print the secret of an agent, for its sender: `python -m shared.webhooks <agent_id>`, by RUNBASE_WEBHOOK_KEY."""

from __future__ import annotations

import os
import sys
from uuid import UUID

from shared.settings import SettingsError
from shared.webhooks.keys import WebhookKeys


def main(arguments: list[str]) -> int:
    try:
        (agent_id,) = (UUID(argument) for argument in arguments)
    except ValueError:
        sys.stderr.write("usage: python -m shared.webhooks <agent_id>\n")
        return 2
    try:
        secret = WebhookKeys.from_env(os.environ).secret(agent_id)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{secret}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
