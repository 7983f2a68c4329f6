"""No URL that a person can write reaches an address inside: no connection is even begun."""

from __future__ import annotations

import socket

import httpcore
import pytest

from shared.egress import EgressPolicy, check_url, egress_client
from shared.egress.network import system_resolver
from shared.egress.policy import Origin
from shared.errors import AddressBlocked, AppError, InvalidInput
from tests.egress.outside import NOWHERE, Names, answer, listening

PUBLIC = "93.184.215.14"
INSIDE = Names(
    {
        "private.example": ["10.0.0.5"],
        "mixed.example": [PUBLIC, "192.168.0.1"],
        "mixed-last.example": ["2606:2800:21f:cb07:6820:80da:af6b:8b2c", "::1"],
        "metadata.example": ["169.254.169.254"],
        "metadata6.example": ["fd00:ec2::254"],
        "mapped.example": ["::ffff:127.0.0.1"],
        "scoped.example": ["fe80::1%lo"],
        "zero.example": ["0.0.0.0"],  # noqa: S104 - nothing is bound
        "0x7f000001": ["127.0.0.1"],
        "0x7f.1": ["127.0.0.1"],
        "localhost": ["127.0.0.1", "::1"],
        "localhost.": ["127.0.0.1"],
        "foo.localhost": ["127.0.0.1"],
        "metadata.google.internal": ["169.254.169.254"],
    }
)
HOSTS = [
    "127.0.0.1",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0177.0.0.1",
    "127.1",
    "127.0.0.1.",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "0.0.0.0",  # noqa: S104 - nothing is bound
    "0",
    "[::]",
    "localhost",
    "localhost.",
    "foo.localhost",
    "LOCALHOST",
    "private.example",
    "mixed.example",
    "mixed-last.example",
    "metadata.example",
    "metadata6.example",
    "mapped.example",
    "scoped.example",
    "zero.example",
    "metadata.google.internal",
    "169.254.169.254",
    "169.254.170.2",
    "[fd00:ec2::254]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b::a9fe:a9fe]",
    "[2002:7f00:1::]",
    "[2001:0:7f00:1::]",
    "[::127.0.0.1]",
    "[fec0::1]",
    "[fc00::1]",
    "[fe80::1]",
    "[fe80::1%25lo]",
    "[ff02::1]",
    "100.64.0.1",
    "100.100.100.200",
    "198.18.0.1",
    "192.0.0.192",
    "192.0.2.1",
    "224.0.0.1",
    "255.255.255.255",
    "172.16.0.1",
    "192.168.1.1",
    "\u2460\u2461\u2466.0.0.1",
    "\u24c1\u24c4\u24b8\u24b6\u24c1\u24bd\u24c4\u24c8\u24c9",
    "127\u30020\u30020\u30021",
    "%31%32%37.0.0.1",
]
URLS = [
    "http://user:pw@127.0.0.1/",
    "http://93.184.215.14@127.0.0.1/",
    "http://public.example\\@127.0.0.1/",
    "http://public.example#@127.0.0.1/",
    "http:///127.0.0.1/",
    "http:127.0.0.1/",
    "//127.0.0.1/",
    "/etc/passwd",
    "",
    "http://",
    "http://127.0.0.1:9001/2018-06-01/runtime/invocation/next",
    "http://[::1/",
    "http://127.0.0.1:99999/",
    "http://127.0.0.1:port/",
    "http://public.example:22/",
    "http://public.example:25/",
    "http://public.example:6379/",
    "http://public.example:11211/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:6379/_INFO",
    "ftp://public.example/",
    "data:text/plain,hello",
    "unix:///var/run/docker.sock",
    "javascript:alert(1)",
    f"http://{'a' * 64}.example/",
    f"http://{'a.' * 130}example/",
    f"http://public.example/{'a' * 9000}",
]


@pytest.fixture
def connects(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every connection that is begun, by whichever way: none of them gets anywhere."""
    begun: list[str] = []

    async def dial(_self: object, host: str, *_: object, **__: object) -> None:
        begun.append(host)
        raise httpcore.ConnectError

    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", dial)
    monkeypatch.setattr(socket.socket, "connect", lambda _self, address: begun.append(str(address)))
    return begun


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", HOSTS)
async def test_a_host_that_leads_inside_is_not_connected_to(connects: list[str], scheme: str, host: str) -> None:
    for port in ("", ":80", ":443", ":8080", ":9001"):
        ports = frozenset({80, 443, 8080, 9001})
        async with egress_client(EgressPolicy(ports=ports), surroundings=NOWHERE, resolver=INSIDE) as client:
            with pytest.raises((AddressBlocked, InvalidInput)):
                await client.get(f"{scheme}://{host}{port}/latest/meta-data/")
    assert connects == []


@pytest.mark.parametrize("host", HOSTS)
async def test_not_even_a_credential_that_is_bound_to_it_gets_there(connects: list[str], host: str) -> None:
    url = f"https://{host}"
    with pytest.raises((AddressBlocked, InvalidInput)):
        async with egress_client(EgressPolicy.for_url(url), surroundings=NOWHERE, resolver=INSIDE) as client:
            await client.get(url)
    assert connects == []


@pytest.mark.parametrize("url", URLS)
async def test_what_is_no_plain_web_address_is_not_called(connects: list[str], url: str) -> None:
    names = Names({**INSIDE.answers, "public.example": ["127.0.0.1"]})
    async with egress_client(surroundings=NOWHERE, resolver=names) as client:
        with pytest.raises(AppError) as refusal:
            await client.get(url)
    assert refusal.value.status in {400, 502}
    assert connects == []


@pytest.mark.parametrize("host", ["127.0.0.1", "0x7f000001", "127.1", "localhost", "[::1]", "2130706433"])
async def test_the_platforms_own_resolver_does_not_lead_inside_either(connects: list[str], host: str) -> None:
    async with egress_client(surroundings=NOWHERE, resolver=system_resolver) as client:
        with pytest.raises(AddressBlocked):
            await client.get(f"http://{host}/")
    assert connects == []


async def test_a_public_address_is_connected_to_by_its_address(connects: list[str]) -> None:
    names = Names({"public.example": [PUBLIC, "2606:2800:21f:cb07:6820:80da:af6b:8b2c"]})
    async with egress_client(surroundings=NOWHERE, resolver=names) as client:
        with pytest.raises(AppError):
            await client.get("https://public.example/")

    assert connects == [PUBLIC, "2606:2800:21f:cb07:6820:80da:af6b:8b2c"]
    assert names.asked == ["public.example"]


async def test_no_more_than_four_addresses_of_a_name_are_tried(connects: list[str]) -> None:
    names = Names({"many.example": [f"93.184.215.{number}" for number in range(200)]})
    async with egress_client(surroundings=NOWHERE, resolver=names) as client:
        with pytest.raises(AppError):
            await client.get("https://many.example/")

    assert len(connects) == 4


async def test_a_connection_that_something_leads_elsewhere_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    dial = httpcore.AnyIOBackend.connect_tcp

    async with listening(answer(b"secret")) as inside:

        async def lead_inside(self: httpcore.AnyIOBackend, *_: object) -> httpcore.AsyncNetworkStream:
            return await dial(self, "127.0.0.1", inside.port)

        monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", lead_inside)
        names = Names({"public.example": [PUBLIC]})
        async with egress_client(surroundings=NOWHERE, resolver=names) as client:
            with pytest.raises(AddressBlocked):
                await client.get("http://public.example/")
    assert inside.requests == []


@pytest.mark.parametrize("port", [22, 25, 5432, 6379, 11211, 0, 65536])
def test_a_policy_cannot_open_a_port_of_another_kind_of_service(port: int) -> None:
    assert not EgressPolicy(ports=frozenset({port})).permits(Origin("http", "public.example", port))


async def test_the_refusal_tells_nothing_of_the_inside(connects: list[str]) -> None:
    told: set[tuple[str, str | None]] = set()
    for host in ("private.example", "metadata.example", "127.0.0.1"):
        async with egress_client(surroundings=NOWHERE, resolver=INSIDE) as client:
            with pytest.raises(AddressBlocked) as refusal:
                await client.get(f"https://{host}/")
        told.add((refusal.value.message, refusal.value.details))

    assert told == {("This address may not be called from here", None)}


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/", "https://2130706433", "https://[::1]:8443/x", "https://a:b@x.example"]
)
def test_a_url_can_be_refused_when_it_is_saved(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("SUPABASE_URL", "https://project.supabase.co")
    monkeypatch.delenv("EGRESS_ALLOWED_NETWORKS", raising=False)

    with pytest.raises((AddressBlocked, InvalidInput)):
        check_url(url)
    check_url("https://public.example:8443/path?query=1")
