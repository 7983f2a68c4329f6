"""What a credential consists of: each field's good and bad values, and nothing of a bad one in its refusal."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shared.egress import EgressPolicy
from shared.errors import InvalidInput
from shared.vault.providers import PROVIDERS, from_sealed, parse, to_form
from tests.support.canaries import canary

KEY = canary()
GOOD: list[tuple[str, dict[str, Any]]] = [
    ("openai", {"api_key": KEY}),
    ("openai", {"api_key": KEY, "organization": "org-1", "project": "proj_1"}),
    ("deepseek", {"api_key": KEY}),
    ("anthropic", {"api_key": KEY}),
    ("gemini", {"api_key": KEY}),
    ("flowise", {"base_url": "https://flows.example.com/base", "api_key": KEY}),
    ("flowise", {"base_url": "http://127.0.0.1:3000", "api_key": KEY}),
    ("http", {"base_url": "https://[2001:db8::1]:8443", "headers": {"Authorization": f"Bearer {KEY}"}}),
    ("postgres", {"dsn": f"postgresql://user:{KEY}@db.example.com:6543/app?sslmode=require"}),
]


@pytest.mark.parametrize(("provider", "fields"), GOOD)
def test_what_was_entered_comes_back_as_it_was(provider: str, fields: dict[str, Any]):
    entered = parse(provider, fields)

    back = from_sealed(provider, entered.to_sealed())

    assert back == entered
    opened = {name: secret.reveal() for name, secret in back.to_fields().items()}
    assert {**opened, **({"headers": json.loads(opened["headers"])} if "headers" in opened else {})} == fields


@pytest.mark.parametrize(("provider", "fields"), GOOD)
def test_a_credential_says_what_must_be_shown_nowhere(provider: str, fields: dict[str, Any]):
    entered = parse(provider, fields)

    assert KEY in entered.secrets()
    assert "https://flows.example.com/base" not in entered.secrets()


@pytest.mark.parametrize(
    ("provider", "fields", "url"),
    [
        ("openai", {"api_key": KEY}, "https://api.openai.com/v1/models"),
        ("deepseek", {"api_key": KEY}, "https://api.deepseek.com/models"),
        ("anthropic", {"api_key": KEY}, "https://api.anthropic.com/v1/models"),
        ("gemini", {"api_key": KEY}, "https://generativelanguage.googleapis.com/v1beta/models"),
        (
            "flowise",
            {"base_url": "https://flows.example.com:8443/x", "api_key": KEY},
            "https://flows.example.com:8443/y",
        ),
        ("http", {"base_url": "http://[::1]:8080", "headers": {"X-Key": KEY}}, "http://[::1]:8080/z"),
    ],
)
def test_a_credential_goes_to_its_own_hosts_and_nowhere_else(provider: str, fields: dict[str, Any], url: str):
    from shared.egress.policy import origin_of

    policy = EgressPolicy.bound_to(parse(provider, fields).allowed_hosts())

    assert policy.permits(origin_of(url))
    for other in ("https://evil.example.com/", "https://api.openai.com.evil.example/", "https://flows.example.com/"):
        assert not policy.permits(origin_of(other))


def test_a_dsn_names_its_host_and_port():
    assert parse("postgres", {"dsn": "postgres://u:password@h.example/db"}).allowed_hosts() == {"h.example:5432"}


@pytest.mark.parametrize(
    ("provider", "fields", "problem"),
    [
        ("openai", {}, "fields.api_key: Field required"),
        ("openai", {"api_key": None}, "fields.api_key: Input should be a valid string"),
        ("openai", {"api_key": 5}, "fields.api_key: Input should be a valid string"),
        ("openai", {"api_key": "short"}, "fields.api_key: String should have at least 8 characters"),
        ("openai", {"api_key": "x" * 513}, "fields.api_key: String should have at most 512 characters"),
        ("openai", {"api_key": "sk-two words"}, "fields.api_key: String should match pattern"),
        ("openai", {"api_key": "sk-line\nbreak"}, "fields.api_key: String should match pattern"),
        ("openai", {"api_key": "sk-ünïcödé"}, "fields.api_key: String should match pattern"),
        ("openai", {"api_key": KEY, "base_url": "https://evil.example"}, "fields: Unknown field"),
        ("openai", {"api_key": KEY, KEY: "x"}, "fields: Unknown field"),
        ("openai", {"api_key": KEY, "organization": "a b"}, "fields.organization: String should match pattern"),
        ("flowise", {"api_key": KEY}, "fields.base_url: Field required"),
        ("flowise", {"api_key": KEY, "base_url": "flows.example.com"}, "fields.base_url: The URL must begin with"),
        ("flowise", {"api_key": KEY, "base_url": "file:///etc/passwd"}, "fields.base_url: The URL must begin with"),
        ("flowise", {"api_key": KEY, "base_url": "https://"}, "fields.base_url: The URL names no host"),
        ("flowise", {"api_key": KEY, "base_url": "https://a.example:port"}, "fields.base_url: The URL cannot be read"),
        ("flowise", {"api_key": KEY, "base_url": "https://u:p@a.example"}, "fields.base_url: The URL must not hold"),
        ("flowise", {"api_key": KEY, "base_url": "https://a.example/?key=1"}, "fields.base_url: must be a URL without"),
        ("flowise", {"api_key": KEY, "base_url": "https://a.example/#x"}, "fields.base_url: must be a URL without"),
        ("flowise", {"api_key": KEY, "base_url": "https://a.example:22"}, "fields.base_url: must not name the port"),
        ("flowise", {"api_key": KEY, "base_url": "http://a.example"}, "fields.base_url: must be an https URL"),
        ("flowise", {"api_key": KEY, "base_url": "http://169.254.169.254"}, "fields.base_url: must be an https URL"),
        ("flowise", {"api_key": KEY, "base_url": "https://a b.example"}, "fields.base_url: The URL contains spaces"),
        ("http", {"base_url": "https://a.example"}, "fields.headers: Field required"),
        ("http", {"base_url": "https://a.example", "headers": {}}, "fields.headers: must be 1 to 20 headers"),
        (
            "http",
            {"base_url": "https://a.example", "headers": KEY},
            "fields.headers: Input should be a valid dictionary",
        ),
        ("http", {"base_url": "https://a.example", "headers": {"X-Key": 5}}, "fields.headers: Input should be a valid"),
        ("http", {"base_url": "https://a.example", "headers": {"Host": "b"}}, "fields.headers: names a header that"),
        ("http", {"base_url": "https://a.example", "headers": {"X\r\nY": "b"}}, "fields.headers: names a header that"),
        ("http", {"base_url": "https://a.example", "headers": {"X": "a\r\nY: b"}}, "fields.headers: has a value that"),
        ("http", {"base_url": "https://a.example", "headers": {"X": ""}}, "fields.headers: has a value that"),
        ("http", {"base_url": "https://a.example", "headers": {"X": "a", "x": "b"}}, "fields.headers: must not name"),
        (
            "http",
            {"base_url": "https://a.example", "headers": {f"X-{n}": "a" for n in range(21)}},
            "fields.headers: must be 1 to 20 headers",
        ),
        (
            "http",
            {"base_url": "https://a.example", "headers": {f"X-{n}": "a" * 4096 for n in range(2)}},
            "fields.headers: must have 8192 characters at most",
        ),
        ("postgres", {"dsn": "mysql://u:p@h/db"}, "fields.dsn: must read postgresql://"),
        ("postgres", {"dsn": "postgresql://h/db"}, "fields.dsn: must read postgresql://"),
        ("postgres", {"dsn": "postgresql://u:p@h:x/db"}, "fields.dsn: must read postgresql://"),
        ("postgres", {"dsn": "postgresql://u:p@h:0/db"}, "fields.dsn: must read postgresql://"),
        ("postgres", {"dsn": "postgresql://u:p@h"}, "fields.dsn: must read postgresql://"),
        ("postgres", {"dsn": "postgresql://u:p@a,b/db"}, "fields.dsn: must read postgresql://"),
        ("postgres", {"dsn": "postgresql://u:p@[::1/db"}, "fields.dsn: must read postgresql://"),
        ("postgres", {"dsn": "host=h password=p"}, "fields.dsn: must read postgresql://"),
        ("mistral", {"api_key": KEY}, "provider: must be one of openai, deepseek"),
    ],
)
def test_a_bad_field_is_named_and_not_repeated(provider: str, fields: dict[str, Any], problem: str):
    with pytest.raises(InvalidInput) as refused:
        parse(provider, fields)

    assert refused.value.message.startswith(problem)
    shown = json.dumps(refused.value.to_body())
    assert KEY not in shown
    assert "evil" not in shown
    assert refused.value.__cause__ is None


def test_all_problems_are_told_at_once():
    with pytest.raises(InvalidInput) as refused:
        parse("flowise", {"base_url": "x", "colour": "red"})

    assert refused.value.details is not None
    assert refused.value.details.split("; ") == [
        "fields.api_key: Field required",
        "fields.base_url: The URL must begin with https:// or http://",
        "fields: Unknown field",
    ]


def test_what_was_pasted_with_blanks_around_it_is_taken_without():
    entered = parse("flowise", {"api_key": f" {KEY}\n", "base_url": " https://flows.example.com/ "})

    assert entered.model_dump() == {"api_key": KEY, "base_url": "https://flows.example.com"}


@pytest.mark.parametrize(
    ("provider", "fields", "last_four"),
    [
        ("openai", {"api_key": "sk-123456789"}, "6789"),
        ("openai", {"api_key": "sk-12345678"}, None),
        ("http", {"base_url": "https://a.example", "headers": {"X": "v1", "X-Key": "long-enough-1234"}}, "1234"),
        ("http", {"base_url": "https://a.example", "headers": {"Authorization": "Bearer 12345678"}}, None),
        ("http", {"base_url": "https://a.example", "headers": {"Authorization": "Bearer 123456789012"}}, "9012"),
        ("http", {"base_url": "https://a.example", "headers": {"Authorization": "Basic dXNlcjpwYXNzd29yZDE="}}, None),
        ("postgres", {"dsn": "postgresql://user:long-password-1234@db.example.com/app"}, None),
    ],
)
def test_only_the_end_of_a_long_key_is_told(provider: str, fields: dict[str, Any], last_four: str | None):
    assert parse(provider, fields).last_four() == last_four


def test_the_password_of_a_dsn_is_a_secret_in_both_its_forms():
    secrets = parse("postgres", {"dsn": "postgresql://user:p%40ssword@db.example.com/app"}).secrets()

    assert {"p%40ssword", "p@ssword"} <= set(secrets)


def test_every_provider_has_a_form_that_asks_for_its_fields():
    for provider, kind in PROVIDERS.items():
        form = to_form(provider)

        assert form.label
        assert [field.name for field in form.fields] == list(kind.model_fields)
        assert all(field.label for field in form.fields)
        assert any(field.secret and field.required for field in form.fields)
