"""The project's supabase/config.toml, its values `env(NAME)` resolved as the Supabase CLI resolves them.

A name is looked up in the environment, then in the files that usually hold it, beside the folder `supabase` and in it.
One that is nowhere, or empty, leaves the value as it is written.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from dotenv import dotenv_values

from local.errors import MigrationError

NAME = "supabase/config.toml"
LAST_PORT = 65535
_ENV = re.compile(r"env\((.*)\)")


def read_config(folder: Path) -> dict[str, Any]:
    """The settings of the project whose `supabase` folder this is; none if it has no config.toml.

    Raises:
        MigrationError: a file cannot be understood.
    """
    try:
        content = tomllib.loads((folder / "config.toml").read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise MigrationError(f"{NAME} cannot be understood: {exc}") from exc
    variables = _variables(folder)
    return {name: _resolved(value, variables.get) for name, value in content.items()}


def configured_port(folder: Path, table: str) -> int | None:
    """The port that `[table]` names, where the project's `supabase start` would listen.

    Raises:
        MigrationError: it is none, or config.toml cannot be understood.
    """
    section: object = read_config(folder).get(table, {})
    found: object = cast("dict[str, object]", section).get("port") if isinstance(section, dict) else None
    if found is None:
        return None
    if re.fullmatch(r"\d{1,5}", str(found)) and int(str(found)) <= LAST_PORT:
        return int(str(found))
    raise MigrationError(f"{NAME}: {table}.port: {found!r} is no port")


def _resolved(value: object, look_up: Callable[[str], str | None]) -> object:
    if isinstance(value, dict):
        return {name: _resolved(one, look_up) for name, one in cast("dict[str, object]", value).items()}
    if isinstance(value, list):
        return [_resolved(one, look_up) for one in cast("list[object]", value)]
    if isinstance(value, str) and (wanted := _ENV.fullmatch(value)):
        return look_up(wanted[1]) or value
    return value


def _variables(folder: Path) -> Mapping[str, str | None]:
    """Whatever sets a name first wins: the environment, then the project's folder, then `supabase` in it."""
    stage = os.environ.get("SUPABASE_ENV") or "development"
    names = (f".env.{stage}.local", ".env.local", f".env.{stage}", ".env")
    found: dict[str, str | None] = {}
    for file in (place / name for place in (folder, folder.parent) for name in reversed(names)):
        try:
            found |= dotenv_values(file)
        except UnicodeDecodeError as exc:
            raise MigrationError(f"{file.relative_to(folder.parent)}: not a text file in UTF-8") from exc
    return found | os.environ
