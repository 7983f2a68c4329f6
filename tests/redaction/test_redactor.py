"""What is hidden in texts and documents, and what is not."""

from __future__ import annotations

import base64

import pytest

from shared.redaction import MARK, Redactor, redact_json, redact_text
from shared.redaction.marks import Span
from shared.redaction.redactor import redact_line
from shared.vault.secret import Secret

RANDOM = "aB3dE5gH7jK9mN1pQ3sT5vX7zA9cE1gI3kM5oQ7"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
KEY_LINES = "\n".join(["MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj"] * 3)
PRIVATE_KEY = f"-----BEGIN PRIVATE KEY-----\n{KEY_LINES}\nMzEfYyjiWA4R4/M2\n-----END PRIVATE KEY-----"


@pytest.mark.parametrize(
    "key",
    [
        f"sk-ant-api03-{RANDOM}",
        f"sk-proj-{RANDOM}",
        "sk-0123456789abcdef0123456789abcdef",
        "AIzaSyA1234567890abcdefghijklmnopqrstuv",
        "sb_secret_N7UND0UgjKTVK-Uodkm0Hg_xSvEMPvz",
        "sbp_0102030405060708090a0b0c0d0e0f1011121314",
        JWT,
        f"ghp_{RANDOM}",
        f"github_pat_{RANDOM}",
        "xoxb-123456789012-abcdefABCDEF",
        f"sk_live_{RANDOM}",
        f"whsec_{RANDOM}",
        f"rb_live_{RANDOM}",
        "AKIAIOSFODNN7EXAMPLE",
        "123456789:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsawQ",
        PRIVATE_KEY,
        PRIVATE_KEY.replace("\n", "\\n"),
        PRIVATE_KEY.partition("-----END")[0].strip(),
    ],
)
def test_a_key_is_known_by_its_shape(key: str) -> None:
    assert redact_text(f"The key {key} was refused") == f"The key {MARK} was refused"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Authorization: Bearer abcdef-12ab56-ghijkl", f"Authorization: Bearer {MARK}"),
        ("authorization: basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", f"authorization: basic {MARK}"),
        ("postgresql://app:hunter2@db.example.com:5432/app", f"postgresql://app:{MARK}@db.example.com:5432/app"),
        ("https://example.com/?page=2&api_key=a1b2c3d4e5&n=1", f"https://example.com/?page=2&api_key={MARK}&n=1"),
        ("OPENAI_API_KEY='a1b2c3d4e5'", f"OPENAI_API_KEY='{MARK}'"),
        ('{\\"client_secret\\": \\"a1b2c3d4e5\\"}', f'{{\\"client_secret\\": \\"{MARK}\\"}}'),
        ("password: hunter2hunter2", f"password: {MARK}"),
        ("TELEGRAM_TOKEN=a1b2c3d4e5f6", f"TELEGRAM_TOKEN={MARK}"),
    ],
)
def test_a_value_is_known_by_what_stands_before_it(text: str, shown: str) -> None:
    assert redact_text(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "task-0123456789abcdef0123456789abcdef",
        "risk-0123456789abcdef0123456789abcdef",
        "Keys of OpenAI begin with sk- or sk-proj-",
        "sk-toggleable__label-arrow sk-estimator-doc-link",
        "550e8400-e29b-41d4-a716-446655440000",
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "token = base64.b64encode(raw)",
        "api_key = settings.openai2.api_key",
        "password = request.form['p4ssword']",
        "api_key=${OPENAI_API_KEY}",
        "https://user:${PASSWORD}@example.com",
        "https://example.com:8080/a@b",
        "basic understanding of bearer instruments",
        "max_tokens: 4096, total_tokens=12345678a",
        "next_page_token=a1b2c3d4e5f6",
        "The secret: nobody reads manuals.",
        "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A\n-----END PUBLIC KEY-----",
        "\ud800 is half of a character",
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert redact_text(text) == text


def test_names_of_members_tell_what_is_secret() -> None:
    document = {
        "password": "x",
        "openai_api_key": "short",
        "Authorization": "Token abc",
        "clientSecret": ["one", 2],
        "tokens": 12,
        "max_tokens": 4096,
        "next_page_token": "page-2",
        "secret": True,
        "api_key": "${KEY}",
        "token": "",
        "properties": {"password": {"type": "string"}},
    }

    assert redact_json(document) == document | {
        "password": MARK,
        "openai_api_key": MARK,
        "Authorization": MARK,
        "clientSecret": [MARK, 2],
    }


def test_a_document_with_nothing_to_hide_is_the_same_object() -> None:
    document = {"ok": True, "text": "A token of my appreciation", "tokens": [1, 2]}

    assert Redactor(Secret("some-key-of-a-person")).json(document) is document


def test_a_number_or_a_name_that_is_a_secret_is_hidden() -> None:
    redactor = Redactor(Secret("498213377012"))

    assert redactor.json({"n": 498213377012, "m": 7, "498213377012": 1}) == {"n": MARK, "m": 7, MARK: 1}


@pytest.mark.parametrize(
    "value",
    [
        "postgresql://app:p4ss-word-1@db.example.com:5432/app",
        "postgresql://app:p4ss%2Dword%2D1@db.example.com:5432/app",
        "Bearer p4ss-word-1",
        "Basic " + base64.b64encode(b"app:p4ss-word-1").decode(),
        "https://hooks.example.com/services/p4ss-word-1-and-more?x=1",
    ],
)
def test_the_secret_part_of_a_value_is_hidden_by_itself(value: str) -> None:
    redactor = Redactor(Secret(value))

    assert "p4ss-word-1" not in redactor.text("It said p4ss-word-1-and-more")
    assert redactor.text("GET https://db.example.com:5432 with application/json by postgresql://") == (
        "GET https://db.example.com:5432 with application/json by postgresql://"
    )


def test_a_media_type_is_no_secret_though_it_is_a_headers_value() -> None:
    assert Redactor(Secret("application/json")).text("Accept: application/json") == "Accept: application/json"


def test_an_address_without_a_secret_hides_nothing() -> None:
    redactor = Redactor(Secret("https://flowise.example.com/api/v1"))

    assert redactor.text("https://flowise.example.com/api/v1/prediction") == (
        "https://flowise.example.com/api/v1/prediction"
    )


def test_a_long_value_is_hidden_whole_and_in_parts() -> None:
    key = "".join(f"{number:x}z" for number in range(1000))
    redactor = Redactor(Secret(key))

    assert redactor.text(f"<{key}>") == f"<{MARK}>"
    assert MARK in redactor.text(key[100:123])


def test_a_short_password_is_hidden_also_behind_a_backslash() -> None:
    redactor = Redactor(Secret("tr0ub4"))

    assert redactor.text(r"C:\tr0ub4 and \"tr0ub4\"") == rf"C:\{MARK} and \"{MARK}\""


def test_a_secret_learnt_later_is_hidden_from_then_on() -> None:
    redactor = Redactor(Secret("first-key-of-a-person"))
    stream = redactor.stream()
    shown = stream.feed("first-key-of-a-person, and then ")

    redactor.know(Secret("second-key-of-a-person"))
    shown += stream.feed("second-key-of-a-person.") + stream.flush()

    assert shown == f"{MARK}, and then {MARK}."


def test_a_stream_lets_ordinary_text_go_at_once() -> None:
    stream = Redactor().stream()

    assert stream.feed("Hello there, how are ") == "Hello there, how are "
    assert stream.feed("你好。世界。") == "你好。世界。"
    assert stream.feed('{"a":1,') == '{"a":1,'


def test_a_run_without_end_is_not_held_for_ever() -> None:
    stream = Redactor().stream()

    shown = [stream.feed("A" * 1000) for _ in range(100)]

    assert len("".join(shown)) > 80_000
    assert "".join(shown) + stream.flush() == "A" * 100_000


def test_a_key_longer_than_what_is_held_is_hidden_all_the_same() -> None:
    stream = Redactor().stream()

    shown = "".join([*(stream.feed(f"sk-1{'a' * 996}" if n == 0 else "a" * 1000) for n in range(100)), stream.flush()])

    assert "aaaaaaaaaaaa" not in shown
    assert shown.replace(MARK, "") == ""


def test_the_log_hides_what_is_open_in_the_process() -> None:
    redactor = Redactor(Secret("a-key-without-any-shape"))

    assert redact_line("It failed with a-key-without-any-shape") == f"It failed with {MARK}"

    del redactor
    assert redact_line("It failed with a-key-without-any-shape") == "It failed with a-key-without-any-shape"


def test_half_a_character_in_a_stream_stops_nothing():
    stream = Redactor().stream()
    key = f"sk-proj-{RANDOM}"

    shown = "".join(
        [stream.feed("\ud800 and "), stream.feed(key[:20]), stream.feed(f"{key[20:]} \udfff."), stream.flush()]
    )

    assert shown == f"\ud800 and {MARK} \udfff."


class Counting(Redactor):
    """Counts the characters that it looks through for a stream."""

    looked_at = 0

    def known_spans(self, text: str) -> list[Span]:
        self.looked_at += len(text)
        return super().known_spans(text)


@pytest.mark.parametrize("character", [" ", "\\", "a", "\n"])
def test_a_stream_that_never_pauses_is_looked_through_a_few_times_and_not_again_for_each_piece(character: str) -> None:
    redactor = Counting(Secret("a-key-that-is-not-in-the-text"))
    stream = redactor.stream()

    shown = "".join([*(stream.feed(character) for _ in range(10_000)), stream.flush()])

    assert shown == character * 10_000
    assert redactor.looked_at < 10_000 * 50
