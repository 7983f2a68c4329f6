"""A secret is shown by nothing but `reveal`."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import logging
import marshal
import pickle
import pprint
import traceback
from string import Template

import orjson
import pytest
from pydantic import BaseModel, ConfigDict

from shared.vault.secret import Secret

PLAIN = "sk-canary-5d9f1c0e"


@pytest.fixture
def secret() -> Secret:
    return Secret(PLAIN)


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        ascii,
        format,
        pprint.pformat,
        lambda secret: f"{secret}",
        lambda secret: f"{secret!r:>40}",
        lambda secret: f"{secret:^20}",
        "{0} {0!s} {0!a}".format,
        lambda secret: "%s %r" % (secret, secret),  # noqa: UP031
        lambda secret: Template("$secret").substitute(secret=secret),
        lambda secret: repr({"api_key": [secret]}),
        lambda secret: json.dumps(secret, default=str),
        lambda secret: orjson.dumps({"key": secret}, default=str).decode(),
    ],
)
def test_a_secret_shows_a_mark_in_place_of_its_value(show, secret):
    shown = show(secret)

    assert PLAIN not in shown
    assert "[secret]" in shown


@pytest.mark.parametrize(
    "serialise",
    [json.dumps, orjson.dumps, pickle.dumps, marshal.dumps, lambda secret: secret.__getstate__(), vars, bytes, list],
)
def test_a_secret_refuses_to_be_serialised(serialise, secret):
    with pytest.raises((TypeError, ValueError)) as refused:
        serialise(secret)

    assert PLAIN not in str(refused.value)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_pickle_protocol_takes_a_secret(protocol, secret):
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps([secret], protocol)


def test_a_copy_of_a_secret_is_the_secret(secret):
    assert copy.copy(secret) is secret
    assert copy.deepcopy({"key": secret})["key"] is secret


def test_a_log_line_of_a_secret_shows_a_mark(secret):
    stream = io.StringIO()
    logger = logging.getLogger("tests.vault.secret")
    logger.propagate = False
    logger.addHandler(logging.StreamHandler(stream))

    logger.warning("key %s %r", secret, secret, extra={"key": secret})

    assert stream.getvalue() == "key [secret] [secret]\n"


def test_a_traceback_with_locals_shows_a_mark(secret):
    def fail(key: Secret) -> None:
        raise ValueError(key)

    try:
        fail(secret)
    except ValueError as error:
        shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())

    assert "[secret]" in shown
    assert PLAIN not in shown


def test_a_dataclass_shows_its_secret_as_a_mark(secret):
    @dataclasses.dataclass
    class Holder:
        key: Secret

    assert PLAIN not in repr(Holder(secret))
    assert PLAIN not in repr(dataclasses.asdict(Holder(secret)))


def test_a_model_refuses_to_write_its_secret(secret):
    class Holder(BaseModel):
        model_config = ConfigDict(arbitrary_types_allowed=True)
        key: Secret

    with pytest.raises(Exception, match="Unable to serialize"):
        Holder(key=secret).model_dump_json()


def test_secrets_are_equal_when_their_values_are(secret):
    assert secret == Secret(PLAIN)
    assert secret != Secret("another")
    assert secret != PLAIN
    assert len({secret, Secret(PLAIN)}) == 1
    assert Secret("\ud800") == Secret("\ud800")


def test_reveal_answers_the_value(secret):
    assert secret.reveal() == PLAIN
