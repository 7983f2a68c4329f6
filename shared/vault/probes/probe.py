"""Ask a provider whether a key works."""

from __future__ import annotations

from collections.abc import Mapping

from shared.vault.probes.result import ProbeResult
from shared.vault.secret import Secret


async def probe(provider: str, fields: Mapping[str, Secret]) -> ProbeResult:
    """Ask `provider` whether `fields` work; never raises for anything that the provider or the network does."""
    del fields
    return ProbeResult(valid=False, outcome="untestable", message=f"Keys of {provider} cannot be tested")
