"""The one refusal of the vault: whoever tries blobs learns from it only that this one does not open."""

from __future__ import annotations

from shared.errors import VaultSealed


def sealed() -> VaultSealed:
    """What is raised for a flipped bit, another row's blob, a retired key and all else alike."""
    return VaultSealed("The credential cannot be opened", hint="Replace its secret, or add the credential anew.")
