"""What holds of every secret, every encoding, every text and every way of cutting it up."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from shared.redaction import MARK, Redactor, redact_json, redact_text
from shared.redaction.folding import bare
from shared.vault.secret import Secret
from tests.redaction.secrets import (
    ENCODINGS,
    chains,
    encoded_by,
    flat,
    keys,
    pieces,
    prose,
    random_keys,
    secrets,
    windows,
)

cuts = st.lists(st.integers(min_value=0, max_value=10_000), max_size=30)
_NAMES = st.sampled_from(["text", "n", "tokens", "items"])
documents = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | prose,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(_NAMES, inner),
    max_leaves=12,
)


def streamed(redactor: Redactor, parts: list[str]) -> str:
    stream = redactor.stream()
    return "".join([*map(stream.feed, parts), stream.flush()])


@pytest.mark.parametrize("encoding", ENCODINGS)
@settings(max_examples=30)
@given(secret=secrets, before=prose, after=prose)
def test_nothing_of_an_encoded_secret_is_left(encoding: str, secret: str, before: str, after: str) -> None:
    encoded = ENCODINGS[encoding](secret)

    shown = Redactor(Secret(secret)).text(f"{before} {encoded} {after}")

    assert MARK in shown
    assert not [window for window in windows(secret) if window in flat(shown)]
    assert not [window for window in windows(encoded)[4:-4] if window in flat(shown)]


@pytest.mark.parametrize("encoding", ENCODINGS)
@settings(max_examples=30)
@given(secret=secrets, before=prose, after=prose, at=cuts)
def test_a_stream_shows_what_the_whole_text_would(
    encoding: str, secret: str, before: str, after: str, at: list[int]
) -> None:
    text = f"{before} {ENCODINGS[encoding](secret)} {after}"
    redactor = Redactor(Secret(secret))

    assert streamed(redactor, pieces(text, at)) == redactor.text(text)


@given(secret=random_keys, chain=chains(), before=prose, after=prose, at=cuts)
def test_a_secret_is_hidden_behind_any_chain_of_encodings(
    secret: str, chain: tuple[str, ...], before: str, after: str, at: list[int]
) -> None:
    encoded = encoded_by(chain, secret)
    redactor = Redactor(Secret(secret))

    alone = redactor.text(encoded)
    whole = redactor.text(f"{before} {encoded} {after}")

    assert MARK in alone
    # What is left is at its ends: padding, and characters that depend on what stands beside them.
    assert len(alone) < len(MARK) + len(encoded) / 5
    assert encoded not in whole
    assert MARK in whole
    assert streamed(redactor, pieces(f"{before} {encoded} {after}", at)) == whole


@given(secret=random_keys, at=cuts, before=prose)
def test_a_secret_in_several_items_of_a_list_is_hidden_in_all_of_them(secret: str, at: list[int], before: str) -> None:
    parts = [part for part in pieces(secret, at) if part]

    shown = Redactor(Secret(secret)).json({"list": [before, *parts, 7], "bytes": [*secret.encode()]})

    left = bare("".join(shown["list"][1:-1]).replace(MARK, ""))
    assert left == ""
    assert shown["list"][0] == before
    assert shown["list"][-1] == 7
    assert set(shown["bytes"]) == {MARK}


@given(
    secret=random_keys,
    encoding=st.sampled_from(["all url", "all html", "plain", "dashed"]),
    plain=st.lists(st.sampled_from(["%41", "\\n", " ", " " * 33, "a" * 61, ". " * 40, "%", "&amp", "="]), max_size=20),
    at=cuts,
)
def test_a_stream_with_long_ways_between_escapes_shows_what_the_whole_text_would(
    secret: str, encoding: str, plain: list[str], at: list[int]
) -> None:
    encoded = encoded_by((encoding,), secret)
    middle = len(plain) // 2
    text = "".join([*plain[:middle], encoded[:30], *plain[middle:], encoded[30:], *plain])
    redactor = Redactor(Secret(secret))

    assert streamed(redactor, pieces(text, at)) == redactor.text(text)


@given(secret=secrets, data=st.data(), before=prose)
def test_no_twelve_characters_of_a_secret_are_shown(secret: str, data: st.DataObject, before: str) -> None:
    start = data.draw(st.integers(0, len(secret) - 12))
    part = secret[start : data.draw(st.integers(start + 12, len(secret)))]
    assume("\\" not in part)

    assert part not in Redactor(Secret(secret)).text(f"{before} {part} and so on")


@given(text=prose, secret=keys, at=cuts)
def test_text_without_secrets_is_unchanged(text: str, secret: str, at: list[int]) -> None:
    assume(len(bare(secret)) >= 12)
    assume(not [window for window in windows(bare(secret)) if window in bare(text)])
    redactor = Redactor(Secret(secret))

    assert redactor.text(text) == text
    assert redact_text(text) == text
    assert streamed(redactor, pieces(text, at)) == text
    assert streamed(Redactor(), pieces(text, at)) == text


@given(text=st.text(), at=cuts)
def test_any_text_at_all_is_streamed_as_it_is_redacted(text: str, at: list[int]) -> None:
    assert streamed(Redactor(), pieces(text, at)) == redact_text(text)


@given(raw=st.binary(max_size=400))
def test_base64_of_harmless_data_is_unchanged(raw: bytes) -> None:
    text = base64.b64encode(raw).decode()

    assert redact_text(f"data:image/png;base64,{text}") == f"data:image/png;base64,{text}"


@given(document=documents)
def test_a_document_without_secrets_is_the_very_same(document: object) -> None:
    assert redact_json(document) == document
    assert Redactor(Secret("a-key-that-stands-nowhere")).json(document) == document


@given(document=documents, secret=secrets, name=prose)
def test_a_document_keeps_its_shape_and_loses_its_secrets(document: object, secret: str, name: str) -> None:
    redactor = Redactor(Secret(secret))

    shown = redactor.json({"rest": document, "found": [f"{name} {secret}", {"deep": json.dumps({"k": secret})}]})

    assert shown["rest"] == document
    assert MARK in shown["found"][0]
    assert secret not in json.dumps(shown, ensure_ascii=False)


@given(text=prose, secret=secrets, encoding=st.sampled_from(sorted(ENCODINGS)))
def test_redacting_twice_is_the_same_as_once(text: str, secret: str, encoding: str) -> None:
    redactor = Redactor(Secret(secret))
    once = redactor.text(f"{text}{ENCODINGS[encoding](secret)}{text}")

    assert redactor.text(once) == once


@given(text=st.text())
def test_a_document_is_redacted_wherever_its_text_would_be(text: str) -> None:
    """A document is searched as one text first; that must not see less than the search in each of its texts."""
    planted = f"{text}\nsk-abcdefghij1234567890KL and password: hunter2-the-second\t{text}"

    assert redact_json({"a": [planted]}) == {"a": [redact_text(planted)]}
