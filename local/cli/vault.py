"""`runbase vault`: see which master keys are in use, move secrets to the current one, retire the others.

It needs the same ENCRYPTION_KEYS (or RUNBASE_KMS_KEY_ID) as functions and workers have, and decrypts no secret.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from typing import cast
from urllib.parse import urlsplit

import click

from local.cli.options import db_url_option
from local.development import VAULT
from shared.direct_database import DirectDatabase
from shared.runs.models import JsonObject
from shared.settings import SettingsError
from shared.vault.rewrapping import rewrap_all
from shared.vault.ring import KeyRing, keys_from_env

_GIVEN = ("ENCRYPTION_KEYS", "ENCRYPTION_KEY", "RUNBASE_KMS_KEY_ID")


@click.group()
def vault() -> None:
    """Rotate the keys that credentials are sealed under."""
    logging.getLogger("psycopg.pool").setLevel(
        logging.CRITICAL
    )  # each try to connect; the command's error says it once


@vault.command()
@db_url_option
def status(db_url: str) -> int:
    """Show how many credentials are under each key, and which keys are there.

    Exits with 1 if a credential is under a key that is not there.
    """
    keys = _keys(db_url)
    found = asyncio.run(_status(db_url))
    used = {int(cast("int", row["key_version"])): row["credentials"] for row in _rows(found)}
    floor = cast("int", found["min_key_version"])
    missing = False
    for version in sorted(keys.versions | used.keys()):
        notes = ["current"] if version == keys.current_version else []
        notes += ["retired"] if version < floor else []
        if version not in keys.versions:
            notes.append("not in the environment")
            missing = True
        note = f" ({', '.join(notes)})" if notes else ""
        click.echo(f"key {version}: {used.get(version, 0)} credentials{note}")
    return 1 if missing else 0


@vault.command()
@db_url_option
@click.option("--batch", type=click.IntRange(1, 500), default=100, show_default=True, help="Credentials a transaction.")
@click.option("--retire", is_flag=True, help="Then refuse the older keys for good, if nothing is left under them.")
def rewrap(db_url: str, batch: int, *, retire: bool) -> int:
    """Move every credential to the current key, while everything else goes on.

    It may be stopped and started again at any time. Give the new key to all functions and workers first; take the old
    one away when this has ended with --retire. Exits with 1 if something could not be moved.
    """
    return asyncio.run(_rewrap(db_url, _keys(db_url), batch, retire=retire))


async def _status(db_url: str) -> JsonObject:
    async with DirectDatabase(db_url) as database:
        return cast("JsonObject", await database.call("vault_status", {}))


async def _rewrap(db_url: str, keys: KeyRing, batch: int, *, retire: bool) -> int:
    current = keys.current_version
    moved = changed = sealed = 0
    async with DirectDatabase(db_url) as database:
        status = cast("JsonObject", await database.call("vault_status", {}))
        due = sum(
            int(cast("int", row["credentials"])) for row in _rows(status) if int(str(row["key_version"])) < current
        )
        async for done in rewrap_all(database, keys, batch=batch):
            moved, changed, sealed = moved + done.moved, changed + done.changed, sealed + done.sealed
            click.echo(f"{moved} of {due} moved to key {current}")
        click.echo(f"Everything that opens is under key {current}: {moved} moved, {changed} changed meanwhile.")
        if sealed:
            click.echo(f"{sealed} cannot be opened with the keys given and stay as they are.", err=True)
        if not retire:
            return 1 if sealed else 0
        answer = cast("JsonObject", await database.call("retire_keys", {"p_key_version": current}))
    if answer["left"]:
        click.echo(f"{answer['left']} are still under an older key, so none was retired: run it again.", err=True)
        return 1
    click.echo(f"Keys below {answer['min_key_version']} are retired: take them out of ENCRYPTION_KEYS.")
    return 0


def _keys(db_url: str) -> KeyRing:
    try:
        return keys_from_env(_environment(db_url))
    except SettingsError as error:
        raise click.UsageError(str(error)) from error


def _environment(db_url: str) -> Mapping[str, str]:
    """What is given; beside a database on this machine, the local stack's keys where none are."""
    host = urlsplit(db_url).hostname or ""
    given = {"SUPABASE_URL": f"http://[{host}]" if ":" in host else f"http://{host}", **os.environ}
    return given if any(given.get(name) for name in _GIVEN) else {**given, **VAULT}


def _rows(status: JsonObject) -> list[JsonObject]:
    return cast("list[JsonObject]", status["versions"])
