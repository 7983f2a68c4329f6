"""Master keys come from the environment, and a wrong one is said by name and never by content."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from uuid import UUID

import pytest

from local.development import VAULT
from shared.errors import VaultSealed
from shared.settings import SettingsError
from shared.vault.binding import Binding
from shared.vault.envelope import open_sealed, seal
from shared.vault.keys import LOCAL_KEY_SHA256, LocalKeys
from shared.vault.marks import Marks, hash_of
from shared.vault.ring import current_keys, keys_from_env

ONE, TWO = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))
CREDENTIAL = UUID("6f3f2c1e-7c3f-4a57-9b5f-0d5b7d5a9a01")
BINDING = Binding(CREDENTIAL, CREDENTIAL, "openai")


def test_the_highest_version_is_the_current_one():
    keys = LocalKeys.from_env({"ENCRYPTION_KEYS": json.dumps({"9": ONE, "10": TWO})})

    assert keys.current_version == 10
    assert keys.versions == {9, 10}


async def test_encryption_key_alone_is_version_1():
    blob = await seal(LocalKeys.from_env({"ENCRYPTION_KEY": ONE}), b"x", BINDING)

    assert await open_sealed(LocalKeys.from_env({"ENCRYPTION_KEYS": json.dumps({"1": ONE})}), blob, BINDING) == b"x"


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"ENCRYPTION_KEYS": ""},
        {"ENCRYPTION_KEYS": "{}"},
        {"ENCRYPTION_KEYS": "[]"},
        {"ENCRYPTION_KEYS": "{"},
        {"ENCRYPTION_KEYS": json.dumps({"1": ONE[:-4]})},
        {"ENCRYPTION_KEYS": json.dumps({"1": ONE + "AAAA"})},
        {"ENCRYPTION_KEYS": json.dumps({"1": "*" + ONE[1:]})},
        {"ENCRYPTION_KEYS": json.dumps({"1": "ü" * 44})},
        {"ENCRYPTION_KEYS": json.dumps({"1": ""})},
        {"ENCRYPTION_KEYS": json.dumps({"1": None})},
        {"ENCRYPTION_KEYS": json.dumps({"0": ONE})},
        {"ENCRYPTION_KEYS": json.dumps({"01": ONE})},
        {"ENCRYPTION_KEYS": json.dumps({"-1": ONE})},
        {"ENCRYPTION_KEYS": json.dumps({"²": ONE})},
        {"ENCRYPTION_KEYS": json.dumps({"2147483648": ONE})},
        {"ENCRYPTION_KEYS": json.dumps({"1" * 5000: ONE})},
        {"ENCRYPTION_KEYS": json.dumps({"1": ONE, "2": ONE})},
        {"ENCRYPTION_KEYS": json.dumps({"1": ONE}), "ENCRYPTION_KEY": TWO},
        {"ENCRYPTION_KEY": "secret"},
        {"ENCRYPTION_KEYS": json.dumps({"1": ONE}), "RUNBASE_FINGERPRINT_KEY": "short"},
        {"ENCRYPTION_KEYS": json.dumps({"1": ONE}), "RUNBASE_KMS_KEY_ID": "alias/runbase"},
        {"RUNBASE_KMS_KEY_ID": "alias/runbase"},
        {"RUNBASE_KMS_KEY_ID": '{"1": ""}', "RUNBASE_FINGERPRINT_KEY": ONE},
    ],
)
def test_a_wrong_environment_is_said_by_name_and_not_by_content(variables: dict[str, str]):
    with pytest.raises(SettingsError) as refused:
        keys_from_env(variables)

    assert str(refused.value).startswith(
        ("ENCRYPTION_KEY", "RUNBASE_FINGERPRINT_KEY", "RUNBASE_KMS_KEY_ID", "Key version")
    )
    assert not any(key in str(refused.value) for key in (ONE, TWO, ONE[:-4], "ü"))


@pytest.mark.parametrize(
    "url", ["https://project.supabase.co", "http://10.0.0.8:8000", "http://localhost.evil.example"]
)
def test_the_local_stacks_key_protects_nothing_elsewhere(url: str):
    with pytest.raises(SettingsError, match="everybody knows"):
        keys_from_env({**VAULT, "SUPABASE_URL": url})


@pytest.mark.parametrize("url", ["http://127.0.0.1:54321", "http://localhost:54321", "http://[::1]:54321"])
def test_the_local_stacks_key_works_on_this_machine(url: str):
    assert keys_from_env({**VAULT, "SUPABASE_URL": url}).current_version == 1


def test_the_local_stacks_key_is_the_one_that_is_refused():
    key = base64.b64decode(json.loads(VAULT["ENCRYPTION_KEYS"])["1"])

    assert hashlib.sha256(key).hexdigest() == LOCAL_KEY_SHA256


def test_the_local_key_without_knowing_where_supabase_is_is_refused():
    with pytest.raises(SettingsError, match="everybody knows"):
        keys_from_env(VAULT)


def test_local_keys_alone_need_a_key():
    with pytest.raises(SettingsError, match="ENCRYPTION_KEYS is missing"):
        LocalKeys.from_env({})


async def test_a_ring_refuses_a_version_that_it_does_not_have():
    blob = await seal(LocalKeys.from_env({"ENCRYPTION_KEY": ONE}), b"x", BINDING)

    with pytest.raises(VaultSealed, match="cannot be opened"):
        await open_sealed(keys_from_env({"ENCRYPTION_KEYS": json.dumps({"2": TWO})}), blob, BINDING)


def test_kms_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "boto3", None)
    monkeypatch.delitem(sys.modules, "shared.vault.kms", raising=False)

    with pytest.raises(SettingsError, match=r"pip install 'runbase\[aws\]'"):
        keys_from_env({"RUNBASE_KMS_KEY_ID": "alias/runbase", "RUNBASE_FINGERPRINT_KEY": ONE})


def test_the_process_keeps_its_keys_until_a_variable_changes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ENCRYPTION_KEYS", json.dumps({"1": ONE}))
    first = current_keys()

    assert current_keys() is first
    monkeypatch.setenv("ENCRYPTION_KEYS", json.dumps({"1": ONE, "2": TWO}))
    assert current_keys().current_version == 2


def test_a_fingerprint_is_the_same_for_the_same_fields_and_key_alone():
    marks, others = Marks([b"1" * 32]), Marks([b"2" * 32])

    one = marks.fingerprint("http", {"base_url": "https://a.example", "headers": {"a": "1", "b": "2"}})
    assert one == marks.fingerprint("http", {"headers": {"b": "2", "a": "1"}, "base_url": "https://a.example"})
    assert len(one) == 32
    assert one != others.fingerprint("http", {"base_url": "https://a.example", "headers": {"a": "1", "b": "2"}})
    assert marks.fingerprint("openai", {"api_key": "k"}) != marks.fingerprint("deepseek", {"api_key": "k"})


def test_a_ticket_is_known_to_whoever_still_has_its_key():
    old, new = Marks([b"1" * 32]), Marks([b"2" * 32, b"1" * 32])

    assert old.ticket(CREDENTIAL) in new.tickets(CREDENTIAL)
    assert new.ticket(CREDENTIAL) not in old.tickets(CREDENTIAL)
    assert hash_of(old.ticket(CREDENTIAL)) != old.ticket(CREDENTIAL)
