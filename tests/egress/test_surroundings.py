"""What the environment may open, and which hosts are this deployment's own."""

from __future__ import annotations

import httpx
import pytest

from shared.egress import AddressBlocked, EgressPolicy, egress_client
from shared.egress.policy import Origin, origin_of
from shared.egress.surroundings import Surroundings
from shared.errors import InvalidInput
from shared.settings import SettingsError
from tests.egress.outside import Names, answer, listening

LOCAL = {"SUPABASE_URL": "http://127.0.0.1:54321", "EGRESS_ALLOWED_NETWORKS": "127.0.0.0/8, ::1/128"}
DEPLOYED = {
    "SUPABASE_URL": "https://abcdefgh.supabase.co",
    "SUPABASE_DB_URL": "postgresql://postgres:secret@db.internal.example:6543/postgres",
    "RUNBASE_FUNCTIONS_URL": "https://functions.example.com",
    "EGRESS_DENIED_HOSTS": "Hooks.example.com, abc.lambda-url.eu-west-1.on.aws",
    "AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9001",
}


@pytest.mark.parametrize(
    "url", ["https://abcdefgh.supabase.co", "http://10.0.0.1:8000", "http://127.0.0.1.example", ""]
)
def test_networks_are_opened_on_one_machine_only(url: str) -> None:
    with pytest.raises(SettingsError, match="EGRESS_ALLOWED_NETWORKS"):
        Surroundings.from_environment({**LOCAL, "SUPABASE_URL": url})


def test_a_network_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(SettingsError, match="EGRESS_ALLOWED_NETWORKS"):
        Surroundings.from_environment({**LOCAL, "EGRESS_ALLOWED_NETWORKS": "localhost"})


def test_an_environment_that_opens_what_it_may_not_stops_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPABASE_URL", DEPLOYED["SUPABASE_URL"])
    monkeypatch.setenv("EGRESS_ALLOWED_NETWORKS", "10.0.0.0/8")

    with pytest.raises(SettingsError):
        egress_client()


@pytest.mark.parametrize(
    "host",
    [
        "abcdefgh.supabase.co",
        "ABCDEFGH.supabase.co",
        "abcdefgh.supabase.co.",
        "db.abcdefgh.supabase.co",
        "db.internal.example",
        "functions.example.com",
        "hooks.example.com",
        "abc.lambda-url.eu-west-1.on.aws",
    ],
)
async def test_our_own_hosts_are_not_called(host: str) -> None:
    names = Names()
    async with egress_client(surroundings=Surroundings.from_environment(DEPLOYED), resolver=names) as client:
        with pytest.raises(AddressBlocked):
            await client.get(f"https://{host}/rest/v1/")
    assert names.asked == []


async def test_a_host_that_only_ends_like_ours_is_another() -> None:
    surroundings = Surroundings.from_environment(DEPLOYED)

    assert not surroundings.owns_host("notabcdefgh.supabase.co")
    assert not surroundings.owns_host("supabase.co")


async def test_our_own_ports_stay_closed_on_an_open_machine_by_whatever_name() -> None:
    async with listening(answer()) as own, listening(answer()) as other:
        surroundings = Surroundings.from_environment({**LOCAL, "SUPABASE_URL": own.origin})
        names = Names({"alias.example": ["127.0.0.1"], "localhost": ["127.0.0.1"]})
        policy = EgressPolicy(ports=frozenset({own.port, other.port}))
        async with egress_client(policy, surroundings=surroundings, resolver=names) as client:
            for host in ("127.0.0.1", "localhost", "alias.example", "127.0.0.2"):
                with pytest.raises(AddressBlocked):
                    await client.get(f"http://{host}:{own.port}/")
            assert (await client.get(other.origin)).text == "ok"
        assert own.connections == 0


@pytest.mark.parametrize(
    ("entry", "url", "permitted"),
    [
        ("api.openai.com", "https://api.openai.com/v1/models", True),
        ("api.openai.com", "https://API.OpenAI.com./v1", True),
        ("api.openai.com", "http://api.openai.com/v1", False),
        ("api.openai.com", "https://api.openai.com:8443/v1", False),
        ("api.openai.com", "https://api.openai.com.evil.example/", False),
        ("api.openai.com", "https://evil-api.openai.com/", False),
        ("api.openai.com", "https://sub.api.openai.com/", False),
        ("api.openai.com", "https://openai.com/", False),
        ("flow.example:3000", "https://flow.example:3000/api", True),
        ("flow.example:3000", "https://flow.example/api", False),
        ("https://flow.example:443", "https://flow.example/api", True),
        ("https://flow.example:443", "http://flow.example:443/api", False),
        ("http://[2606:4700::1]:8080", "http://[2606:4700::1]:8080/", True),
        ("http://[2606:4700::1]:8080", "http://[2606:4700::2]:8080/", False),
        ("mail.example:25", "https://mail.example:25/", False),
    ],
)
def test_a_credential_goes_to_its_own_place_only(entry: str, url: str, permitted: bool) -> None:  # noqa: FBT001
    assert EgressPolicy.bound_to({entry}).permits(origin_of(url)) is permitted


def test_a_credential_bound_to_nothing_goes_nowhere() -> None:
    assert not EgressPolicy(allowed_hosts=frozenset()).permits(origin_of("https://example.com"))


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://example.com", Origin("https", "example.com", 443)),
        ("HTTP://Example.COM.:8080/a?b#c", Origin("http", "example.com", 8080)),
        ("http://[::1]/", Origin("http", "::1", 80)),
        ("http://example.com:0/", Origin("http", "example.com", 0)),
    ],
)
def test_the_origin_of_a_url(url: str, origin: Origin) -> None:
    assert origin_of(url) == origin


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "ftp://a.example",
        "https://",
        "https://u@a.example",
        "https://@a.example",
        "https://a\tb.example",
    ],
)
def test_what_is_no_url_has_no_origin(url: str) -> None:
    with pytest.raises(InvalidInput):
        origin_of(url)


def test_the_client_is_an_ordinary_one() -> None:
    assert isinstance(egress_client(surroundings=Surroundings()), httpx.AsyncClient)
