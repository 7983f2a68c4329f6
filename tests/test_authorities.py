"""Tests trust one authority of their own; what must speak to the world trusts whom the machine trusts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.certificates import environment_for_the_world, trust_again, trust_nobody


@pytest.mark.parametrize("machine", [{"SSL_CERT_FILE": "/of/the/machine.pem"}, {}], ids=["named", "unnamed"])
def test_the_machines_authorities_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: dict[str, str]
) -> None:
    monkeypatch.setattr(os, "environ", {"PATH": "/bin", **machine})

    trust_nobody(tmp_path)

    assert os.environ["SSL_CERT_FILE"] == str(tmp_path / "server.pem")
    assert environment_for_the_world() == {"PATH": "/bin", **machine}
    trust_again()
    assert os.environ == {"PATH": "/bin", **machine}


def test_no_test_trusts_whom_the_machine_trusts() -> None:
    """What a test reaches by mistake does not answer it."""
    assert Path(os.environ["SSL_CERT_FILE"]).parent == Path(os.environ["RUNBASE_TEST_SERVER"])
