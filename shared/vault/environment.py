"""The vault of a worker, as its environment describes it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from shared.database import Database
from shared.vault.opening import Vault
from shared.vault.ring import current_keys, keys_from_env

KEYS: Final = ("ENCRYPTION_KEYS", "ENCRYPTION_KEY", "RUNBASE_KMS_KEY_ID")


def vault_from_env(database: Database, environment: Mapping[str, str] | None = None) -> Vault | None:
    """Make the vault with the environment's keys (by default the process's own); None when it names no key at all.

    `database` acts as service_role.

    Raises:
        SettingsError: a variable is malformed.
    """
    given = os.environ if environment is None else environment
    if not any(given.get(name) for name in KEYS):
        return None
    return Vault(database, current_keys() if environment is None else keys_from_env(given))
