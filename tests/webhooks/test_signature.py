"""Signatures and what is made of the key: anything but the exact header over the exact body is refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import subprocess
import sys
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.config import PROJECT_DIR
from local.development import WEBHOOK
from shared.errors import Unauthenticated
from shared.settings import SettingsError
from shared.webhooks.keys import VARIABLE, Address, WebhookKeys
from shared.webhooks.signature import WINDOW_SECONDS, sign, sign_as_flowise, verify, verify_as_flowise

SECRET = "a secret"
BODY = b'{"text": "done"}'
AT = 1_790_000_000
GOOD = sign(BODY, SECRET, at=AT)
SIGNATURE = GOOD.partition("v1=")[2]
ADDRESS = Address(UUID(int=1), UUID(int=2), 3)


def test_the_header_is_what_stripes_scheme_says() -> None:
    mac = hmac.new(b"a secret", b'1790000000.{"text": "done"}', hashlib.sha256).hexdigest()
    assert f"t=1790000000,v1={mac}" == GOOD
    assert sign_as_flowise(BODY, SECRET) == f"sha256={hmac.new(b'a secret', BODY, hashlib.sha256).hexdigest()}"


@pytest.mark.parametrize(
    "header",
    [
        GOOD,
        f"v1={SIGNATURE},t={AT}",
        f"t={AT}, v1={SIGNATURE}",
        f"t={AT},v0=old,v1={SIGNATURE},v2=new",
        f"t={AT},v1={'0' * 64},v1={SIGNATURE}",
        f"t={AT},v1={SIGNATURE},v1={'0' * 64}",
    ],
)
def test_one_signature_that_fits_is_enough(header: str) -> None:
    assert verify(header, BODY, SECRET, now=AT) == verify(GOOD, BODY, SECRET, now=AT)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "t=",
        f"t={AT}",
        f"v1={SIGNATURE}",
        f"t={AT},v1=",
        f"t={AT},v1={SIGNATURE[:-1]}",
        f"t={AT},v1={SIGNATURE}00",
        f"t={AT},v1={SIGNATURE.upper()}",
        f"t={AT},v1={'0' * 64}",
        f"t={AT},v0={SIGNATURE}",
        f"t={AT},v1={SIGNATURE},v1=x",
        f"t={AT},t={AT},v1={SIGNATURE}",
        f"{GOOD},{GOOD}",
        f"t={AT + 1},v1={SIGNATURE}",
        f"t=0{AT},v1={SIGNATURE}",
        f"t=+{AT},v1={SIGNATURE}",
        f"t={AT}.0,v1={SIGNATURE}",
        f"t={'9' * 5000},v1={SIGNATURE}",
        f"t=١٧٩,v1={SIGNATURE}",
        f"t={AT}," + ",".join([f"v1={'0' * 64}"] * 8 + [f"v1={SIGNATURE}"]),
        f"t={AT},v1={SIGNATURE}," + "x" * 3000,
        sign_as_flowise(BODY, SECRET),
        "\0",
    ],
)
def test_any_other_header_is_refused(header: str) -> None:
    with pytest.raises(Unauthenticated):
        verify(header, BODY, SECRET, now=AT)


@pytest.mark.parametrize("header", ["", "sha256=", "sha1=" + "0" * 40, "sha256=" + "0" * 64, GOOD, "0" * 64])
def test_any_other_header_of_flowises_is_refused(header: str) -> None:
    verify_as_flowise(sign_as_flowise(BODY, SECRET), BODY, SECRET)
    with pytest.raises(Unauthenticated):
        verify_as_flowise(header, BODY, SECRET)


@pytest.mark.parametrize("seconds", [-WINDOW_SECONDS, 0, WINDOW_SECONDS])
def test_a_delivery_is_good_for_five_minutes_either_way(seconds: int) -> None:
    verify(GOOD, BODY, SECRET, now=AT + seconds)


@pytest.mark.parametrize("seconds", [-WINDOW_SECONDS - 1, WINDOW_SECONDS + 1, 10**9])
def test_and_not_for_longer(seconds: int) -> None:
    with pytest.raises(Unauthenticated, match="300 seconds"):
        verify(GOOD, BODY, SECRET, now=AT + seconds)


@given(bit=st.integers(min_value=0, max_value=len(BODY) * 8 - 1))
def test_each_bit_of_the_body_is_signed(bit: int) -> None:
    forged = bytearray(BODY)
    forged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Unauthenticated):
        verify(GOOD, bytes(forged), SECRET, now=AT)


@given(header=st.text(max_size=200))
def test_no_header_breaks_the_check(header: str) -> None:
    with pytest.raises(Unauthenticated):
        verify(header, BODY, SECRET, now=AT)
    with pytest.raises(Unauthenticated):
        verify_as_flowise(header, BODY, SECRET)


def test_what_is_made_of_a_key_differs_by_key_purpose_and_subject() -> None:
    others = [
        Address(uuid4(), ADDRESS.run_id, 3),
        Address(ADDRESS.agent_id, uuid4(), 3),
        Address(ADDRESS.agent_id, ADDRESS.run_id, 4),
    ]
    made: list[str] = []
    for key in (WebhookKeys(b"1" * 32), WebhookKeys(b"2" * 32)):
        for address in (ADDRESS, *others):
            made += [key.token(address), key.token_hash(address), key.chat_id(address).rpartition(".")[2]]
        made += [key.secret(ADDRESS.agent_id), key.secret(others[0].agent_id)]
    assert len({one[:32] for one in made}) == len(made)


def test_a_seal_is_good_for_its_own_address_only() -> None:
    keys = WebhookKeys(b"1" * 32)
    seal = keys.chat_id(ADDRESS).rpartition(".")[2]
    keys.check_seal(ADDRESS, seal)
    for address, wrong in (
        (ADDRESS, seal[:-1]),
        (ADDRESS, ""),
        (ADDRESS, "ä"),
        (Address(uuid4(), ADDRESS.run_id, 3), seal),
        (Address(ADDRESS.agent_id, ADDRESS.run_id, 4), seal),
    ):
        with pytest.raises(Unauthenticated):
            keys.check_seal(address, wrong)


@pytest.mark.parametrize("value", [None, "", "no base64!", base64.b64encode(b"short").decode(), "ä"])
def test_without_a_key_of_32_bytes_there_are_no_keys(value: str | None) -> None:
    environment = {"SUPABASE_URL": "http://127.0.0.1:54321"} | ({} if value is None else {VARIABLE: value})
    with pytest.raises(SettingsError, match=VARIABLE) as caught:
        WebhookKeys.from_env(environment)
    assert not value or value not in str(caught.value)


def test_the_published_key_of_the_local_stack_works_there_alone() -> None:
    WebhookKeys.from_env({**WEBHOOK, "SUPABASE_URL": "http://127.0.0.1:54321"})
    for url in ("https://project.supabase.co", "http://10.0.0.1", ""):
        with pytest.raises(SettingsError, match=VARIABLE):
            WebhookKeys.from_env({**WEBHOOK, "SUPABASE_URL": url})


def test_an_owner_reads_his_agents_secret_by_a_command() -> None:
    key = base64.b64encode(os.urandom(32)).decode()

    def said(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "shared.webhooks", *arguments],
            cwd=PROJECT_DIR,
            env={"PATH": os.environ["PATH"], **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    good = said(str(ADDRESS.agent_id), RUNBASE_WEBHOOK_KEY=key)
    assert (good.returncode, good.stdout.strip()) == (0, WebhookKeys(base64.b64decode(key)).secret(ADDRESS.agent_id))
    assert [said("x", RUNBASE_WEBHOOK_KEY=key).returncode, said(str(ADDRESS.agent_id)).returncode] == [2, 1]
