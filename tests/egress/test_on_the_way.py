"""Redirects, rebinding, packed, dripping and endless answers, over real sockets."""

from __future__ import annotations

import asyncio
import gzip
import threading
import zlib

import httpx
import pytest

from shared.egress import (
    AddressBlocked,
    AnswerRefused,
    ConnectionBroke,
    EgressPolicy,
    TlsFailed,
    Unreachable,
    egress_client,
)
from shared.egress.body import unpacker
from shared.errors import InvalidInput, UpstreamTimeout
from tests.egress.outside import LOOPBACK, Names, answer, listening


def client_for(url: str, **limits: object) -> httpx.AsyncClient:
    bound = EgressPolicy.for_url(url)
    return egress_client(EgressPolicy(allowed_hosts=bound.allowed_hosts, **limits), surroundings=LOOPBACK)  # type: ignore[arg-type]


def roaming(*ports: int, names: Names | None = None, **limits: object) -> httpx.AsyncClient:
    """A client that may go to any host, at these ports."""
    policy = EgressPolicy(ports=frozenset(ports), **limits)  # type: ignore[arg-type]
    return egress_client(policy, surroundings=LOOPBACK, **({"resolver": names} if names else {}))


def target(request: bytes) -> str:
    return request.split(b" ")[1].decode()


async def test_an_ordinary_call_is_answered() -> None:
    async with (
        listening(answer(b'{"a": 1}', content_type="application/json")) as there,
        client_for(there.origin) as client,
    ):
        response = await client.post(f"{there.origin}/x?y=1", json={"b": 2}, headers={"Authorization": "Bearer abc"})

    assert response.json() == {"a": 1}
    assert b"POST /x?y=1 HTTP/1.1" in there.requests[0]
    assert b"authorization: bearer abc" in there.requests[0].lower()


async def test_a_redirect_to_an_address_inside_is_not_followed() -> None:
    names = Names({"inside.example": ["127.0.0.2"]})
    async with listening(answer(b"secret"), host="127.0.0.2") as secret:
        for location in (
            f"http://127.0.0.2:{secret.port}/",
            f"//127.0.0.2:{secret.port}/",
            f"http://inside.example:{secret.port}/",
            f"http://[::ffff:127.0.0.2]:{secret.port}/",
            "http://169.254.169.254/latest/meta-data/",
        ):
            moved = answer(status="302 Found", location=location)
            async with listening(moved) as there, roaming(there.port, secret.port, 80, names=names) as client:
                with pytest.raises(AddressBlocked):
                    await client.get(there.origin, follow_redirects=True)
            assert there.connections == 1
    assert secret.connections == 0


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "gopher://127.0.0.1/", "http://", "http://[::1", "http://a b/"]
)
async def test_a_redirect_to_what_is_no_web_address_is_refused(location: str) -> None:
    async with listening(answer(status="302 Found", location=location)) as there, roaming(there.port) as client:
        with pytest.raises((AnswerRefused, InvalidInput, AddressBlocked)):
            await client.get(there.origin, follow_redirects=True)


async def test_a_redirect_is_followed_only_when_asked_for_and_without_what_says_who_calls() -> None:
    headers = {"Authorization": "Bearer s", "X-Api-Key": "s", "x-goog-api-key": "s", "Cookie": "s=s", "X-Harmless": "s"}
    async with listening(answer(b"there")) as second:
        moved = answer(status="307 Temporary Redirect", location=f"{second.origin}/new")
        async with listening(moved) as first, roaming(first.port, second.port) as client:
            assert (await client.get(first.origin, headers=headers)).status_code == 307
            response = await client.get(first.origin, headers=headers, follow_redirects=True)

    assert response.text == "there"
    (request,) = second.requests
    assert b"x-harmless: s" in request.lower()
    assert not any(name.encode() in request.lower() for name in ("authorization", "api-key", "cookie"))
    assert b"authorization" in first.requests[0].lower()


async def test_what_says_who_calls_stays_on_a_redirect_within_the_origin() -> None:
    def reply(request: bytes) -> bytes:
        return answer(b"done") if target(request) == "/new" else answer(status="302 Found", location="/new")

    async with listening(reply) as there, client_for(there.origin) as client:
        await client.get(there.origin, headers={"X-Api-Key": "s"}, follow_redirects=True)

    assert b"x-api-key: s" in there.requests[1].lower()


async def test_a_credentials_client_goes_nowhere_but_to_its_origin() -> None:
    async with listening(answer()) as other:
        moved = answer(status="307 Temporary Redirect", location=other.origin)
        async with listening(moved) as own, client_for(own.origin) as client:
            with pytest.raises(AddressBlocked):
                await client.get(own.origin, follow_redirects=True)
            with pytest.raises(AddressBlocked):
                await client.get(other.origin)
            with pytest.raises(AddressBlocked):
                await client.get(own.origin.replace("http:", "https:"))
        assert other.connections == 0


async def test_five_redirects_are_followed_and_no_sixth() -> None:
    def reply(request: bytes) -> bytes:
        left = int(target(request)[1:])
        return answer(b"end") if left == 0 else answer(status="302 Found", location=f"/{left - 1}")

    async with listening(reply) as there, client_for(there.origin) as client:
        assert (await client.get(f"{there.origin}/5", follow_redirects=True)).text == "end"
        with pytest.raises(AnswerRefused):
            await client.get(f"{there.origin}/6", follow_redirects=True)
    assert len(there.requests) == 6 + 6


async def test_a_name_that_moves_inside_between_two_requests_is_refused_at_the_second() -> None:
    names = Names({"moving.example": [["127.0.0.1"], ["10.0.0.1"]]})
    async with listening(answer()) as there, roaming(there.port, names=names) as client:
        assert (await client.get(f"http://moving.example:{there.port}/")).text == "ok"
        with pytest.raises(AddressBlocked):
            await client.get(f"http://moving.example:{there.port}/")
    assert there.connections == 1


async def test_a_name_is_looked_up_once_for_a_connection_and_told_to_the_server() -> None:
    names = Names({"moving.example": [["127.0.0.1"], ["10.0.0.1"]]})
    async with listening(answer()) as there, roaming(there.port, names=names) as client:
        await client.get(f"http://moving.example:{there.port}/")

    assert names.asked == ["moving.example"]
    assert f"host: moving.example:{there.port}".encode() in there.requests[0].lower()


@pytest.mark.parametrize("body", [b"", b"short", b"x" * 300_000])
@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "deflate", "raw", "members", "identity"])
async def test_packed_answers_are_unpacked(encoding: str, body: bytes) -> None:
    raw = zlib.compressobj(wbits=-15)
    packed = {
        "gzip": gzip.compress(body),
        "x-gzip": gzip.compress(body),
        "deflate": zlib.compress(body),
        "raw": raw.compress(body) + raw.flush(),
        "members": gzip.compress(body[:10]) + gzip.compress(body[10:]),
        "identity": body,
    }
    name = {"raw": "deflate", "members": "gzip"}.get(encoding, encoding)
    async with listening(answer(packed[encoding], content_encoding=name)) as there, client_for(there.origin) as client:
        assert (await client.get(there.origin)).content == body


@pytest.mark.parametrize("wbits", [31, 15, -15], ids=["gzip", "zlib", "raw"])
def test_whatever_its_size_and_however_it_is_cut_a_packed_body_comes_out_whole(wbits: int) -> None:
    for size in (*range(65_520, 65_560), *range(65_780, 65_800), 131_072):
        body = bytes(size)
        packer = zlib.compressobj(wbits=wbits)
        packed = packer.compress(body) + packer.flush()
        for cut in (1, len(packed) // 2, len(packed)):
            unpack = unpacker("deflate")
            found = b"".join(b"".join(unpack.feed(part)) for part in (packed[:cut], packed[cut:]))
            unpack.end()
            assert found == body


async def test_a_bomb_is_defused_before_it_is_unpacked() -> None:
    bomb = gzip.compress(bytes(200 * 1024 * 1024))
    assert len(bomb) < 1024 * 1024
    taken = 0

    async def take(client: httpx.AsyncClient, url: str) -> None:
        nonlocal taken
        async with client.stream("GET", url) as response:
            async for piece in response.aiter_bytes():
                taken += len(piece)

    async with listening(answer(bomb, content_encoding="gzip")) as there, client_for(there.origin) as client:
        with pytest.raises(AnswerRefused):
            await take(client, there.origin)
        with pytest.raises(AnswerRefused):
            await client.get(there.origin)
    assert taken <= 10 * 1024 * 1024


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "compress"])
async def test_an_answer_that_is_packed_unasked_is_refused(encoding: str) -> None:
    async with listening(answer(b"x", content_encoding=encoding)) as there, client_for(there.origin) as client:
        with pytest.raises(AnswerRefused):
            await client.get(there.origin)


@pytest.mark.parametrize(
    ("packed", "error"),
    [
        pytest.param(gzip.compress(b"x" * 1000)[:-9], ConnectionBroke, id="cut off"),
        pytest.param(b"\x1f\x8bnonsense here", AnswerRefused, id="no gzip"),
    ],
)
async def test_a_packed_answer_that_is_broken_is_told(packed: bytes, error: type[Exception]) -> None:
    async with listening(answer(packed, content_encoding="gzip")) as there, client_for(there.origin) as client:
        with pytest.raises(error):
            await client.get(there.origin)


async def test_an_answer_that_says_it_is_too_large_is_not_read() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 10000000000\r\n\r\n"
    async with listening(head) as there, client_for(there.origin) as client:
        with pytest.raises(AnswerRefused):
            await client.get(there.origin)


async def test_an_answer_without_end_is_cut_off() -> None:
    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(bytes(65_536))
            await writer.drain()

    async with listening(pour) as there, client_for(there.origin, max_bytes=1_000_000) as client:
        with pytest.raises(AnswerRefused):
            await client.get(there.origin)


@pytest.mark.parametrize("at", ["head", "body"])
async def test_an_answer_that_drips_is_given_up(at: str) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n" + (b"content-length: 100000\r\n\r\n" if at == "body" else b"x-a: "))
        while True:
            writer.write(b"a")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with listening(drip) as there, client_for(there.origin, total_seconds=0.3) as client:
        with pytest.raises(UpstreamTimeout):
            await client.get(there.origin)


async def test_one_deadline_holds_for_all_redirects_together() -> None:
    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.2)
        writer.write(answer(status="302 Found", location="/again"))

    async with listening(slow) as there, client_for(there.origin, total_seconds=0.5) as client:
        with pytest.raises(UpstreamTimeout):
            await client.get(there.origin, follow_redirects=True)
    assert there.connections < 5


async def test_a_lookup_that_stalls_is_not_waited_for() -> None:
    release = threading.Event()

    def stalled(_host: str, _port: int) -> list[str]:
        release.wait(30)
        return ["93.184.215.14"]

    policy = EgressPolicy(connect_seconds=0.2)
    async with egress_client(policy, surroundings=LOOPBACK, resolver=stalled) as client:
        with pytest.raises(UpstreamTimeout):
            await client.get("https://slow.example/")
    release.set()


async def test_a_server_that_hangs_up_is_told_apart_from_one_that_is_not_there() -> None:
    async def hang_up(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read(1)

    async with listening(hang_up) as there:
        async with client_for(there.origin) as client:
            with pytest.raises(ConnectionBroke):
                await client.get(there.origin)
        async with client_for(there.origin.replace("http:", "https:")) as client:
            with pytest.raises(TlsFailed):
                await client.get(there.origin.replace("http:", "https:"))
    async with client_for(there.origin) as client:
        with pytest.raises(Unreachable):
            await client.get(there.origin)


async def test_a_connection_that_breaks_in_the_body_is_told() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this"
    async with listening(head) as there, client_for(there.origin) as client:
        with pytest.raises(ConnectionBroke):
            await client.get(there.origin)


async def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening(answer(b"from the proxy")) as proxy, listening(answer(b"direct")) as there:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.origin)
        async with client_for(there.origin) as client:
            assert (await client.get(there.origin)).text == "direct"
    assert proxy.connections == 0


async def test_a_stream_is_passed_on_as_it_comes() -> None:
    more = asyncio.Event()

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: one\n\n")
        await writer.drain()
        await more.wait()
        writer.write(b"data: two\n\n")

    seen: list[str] = []
    async with (
        listening(speak) as there,
        client_for(there.origin) as client,
        client.stream("GET", there.origin) as response,
    ):
        async for line in response.aiter_lines():
            if line:
                seen.append(line)
                more.set()  # only after the first has arrived
    assert seen == ["data: one", "data: two"]
