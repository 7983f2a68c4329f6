"""Does this key work? One question to its provider, answered by one of a closed set of outcomes."""

from shared.vault.probes.probe import probe
from shared.vault.probes.result import Outcome, ProbeResult

__all__ = ["Outcome", "ProbeResult", "probe"]
