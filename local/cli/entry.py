"""The border of `runbase`: finds the command, turns every error that we know into one sentence and an exit code.

A command is imported when it is asked for. So `runbase worker` runs in production, where the packages of the embedded
stack are not installed, and starts quickly.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Sequence
from typing import cast

import click

from local.errors import StackError
from shared.errors import AppError

COMMANDS = {
    "demo": "Run an agent from prompt to result, live in the terminal.",
    "dev": "Keep a stack and a worker up, and reload on change.",
    "migrate": "Apply the migrations to a database.",
    "schema": "Write supabase/schema.sql as the migrations make it.",
    "stack": "Run the embedded Supabase.",
    "vault": "Rotate the keys that credentials are sealed under.",
    "worker": "Drive runs until told to stop.",
}
EXIT_CODES = (
    "Exit codes: 0 it worked; 1 it failed, and one sentence says why; 2 the options are wrong, or it was refused "
    "before it began; 3 the stack that was asked about does not run, or not all of it; 130 it was interrupted."
)


class Interrupted(Exception):  # noqa: N818 - says what happened
    """SIGINT or SIGTERM ended the command before it was done."""


class Commands(click.Group):
    """A group that imports `local.cli.<name>` when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return [*COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        try:
            module = importlib.import_module(f"local.cli.{cmd_name}")
        except ModuleNotFoundError as error:
            if error.name is None or error.name.split(".")[0] in {"local", "shared", "functions"}:
                raise
            raise click.ClickException(
                f"`runbase {cmd_name}` needs the package {error.name!r}: pip install 'runbase[local]'."
            ) from error
        return cast("click.Command", getattr(module, cmd_name))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([*COMMANDS.items()])


@click.group(cls=Commands, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="runbase", message="runbase %(version)s")
def cli() -> None:
    """Durable runs for agents and workflows on Supabase."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    try:
        result: object = cli.main(
            args=None if arguments is None else [*arguments], prog_name="runbase", standalone_mode=False
        )
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except AppError as error:
        return _failed(" ".join(filter(None, [error.message, error.hint])))
    except StackError as error:
        return _failed(str(error))
    except (Interrupted, click.Abort, KeyboardInterrupt):
        print("Interrupted.", file=sys.stderr)
        return 130
    finally:
        logging.shutdown()
    return result if isinstance(result, int) else 0


def _failed(sentence: str) -> int:
    print(f"Error: {sentence}", file=sys.stderr)
    return 1
