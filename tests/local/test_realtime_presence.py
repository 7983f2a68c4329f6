"""Presence: who is on a topic, told to those who may hear it, until the socket that said so is gone."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest

from local.realtime import socket as realtime_socket
from tests.local.realtime import Socket, administrator, socket, stack_with_notes, until
from tests.support.stack import Stack


@pytest.fixture
async def stack(database_url: str) -> AsyncGenerator[Stack]:
    async with stack_with_notes(database_url) as running:
        yield running


PRESENT = {"presence": {"enabled": True, "key": "me"}}


def names(state: dict[str, Any]) -> dict[str, list[str]]:
    return {key: [meta["name"] for meta in entry["metas"]] for key, entry in state.items()}


async def track(client: Socket, topic: str = "lobby", **words: Any) -> dict[str, Any]:
    return await client.ask(topic, "presence", {"type": "presence", "event": "track", "payload": words})


async def test_presence_tells_who_comes_and_goes(stack: Stack) -> None:
    watcher, visitor = await stack.client(), await stack.client()
    joined, left = [], []
    seen = watcher.channel("lobby")
    seen.on_presence_join(lambda key, _current, new: joined.append((key, new[0]["name"])))
    seen.on_presence_leave(lambda key, _current, gone: left.append((key, gone[0]["name"])))
    await seen.subscribe()
    presence = {"key": "visitor", "enabled": True}
    visiting = visitor.channel("lobby", {"config": {"broadcast": None, "presence": presence, "private": False}})
    await visiting.subscribe()

    await visiting.track({"name": "Ada"})
    await until(lambda: joined)
    await visitor.remove_channel(visiting)
    await until(lambda: left)

    assert joined == left == [("visitor", "Ada")]


async def test_a_late_comer_is_told_who_is_there_and_a_change_refers_to_what_it_replaces(stack: Stack) -> None:
    async with socket(stack) as first, socket(stack) as second:
        await first.join("lobby", PRESENT)
        await track(first, name="Ada")
        await second.join("lobby", {"presence": {"enabled": True}})
        state = await second.hear("presence_state")
        await track(first, name="Grace")
        change = await second.hear("presence_diff")
        await track(first, name="Grace")
        same_again = await second.heard_by_now()

    assert names(state) == {"me": ["Ada"]}
    assert (names(change["joins"]), names(change["leaves"])) == ({"me": ["Grace"]}, {"me": ["Ada"]})
    assert change["joins"]["me"]["metas"][0]["phx_ref_prev"] == state["me"]["metas"][0]["phx_ref"]
    assert same_again == []


async def test_two_sockets_under_one_key_are_present_until_the_last_is_gone(stack: Stack) -> None:
    async with socket(stack) as watcher, socket(stack) as first:
        await watcher.join("lobby", {"presence": {"enabled": True}})
        async with socket(stack) as second:
            for client, name in ((first, "phone"), (second, "desk")):
                await client.join("lobby", PRESENT)
                await track(client, name=name)
                await watcher.hear("presence_diff")
            # Gone without a word, as when the network is.
            second.connection.transport.abort()
            left = await watcher.hear("presence_diff")
        await first.ask("lobby", "presence", {"event": "UNTRACK"})
        last = await watcher.hear("presence_diff")

    assert (left["joins"], names(left["leaves"])) == ({}, {"me": ["desk"]})
    assert names(last["leaves"]) == {"me": ["phone"]}


async def test_a_socket_that_says_nothing_for_too_long_is_closed_and_no_longer_present(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with socket(stack) as watcher:
        await watcher.join("lobby", {"presence": {"enabled": True}})
        monkeypatch.setattr(realtime_socket, "IDLE_SECONDS", 0.2)
        async with socket(stack) as silent:
            await silent.join("lobby", PRESENT)
            await track(silent, name="Ada")
            await watcher.hear("presence_diff")
            left = await watcher.hear("presence_diff")
            await silent.connection.wait_closed()

    assert names(left["leaves"]) == {"me": ["Ada"]}


async def test_who_begins_to_be_present_is_told_who_else_is(stack: Stack) -> None:
    async with socket(stack) as first, socket(stack) as second:
        await first.join("lobby", PRESENT)
        await track(first, name="Ada")
        await second.join("lobby", {})
        answered = await track(second, name="Grace")
        state = await second.hear("presence_state")

    assert answered == {"status": "ok", "response": {}}
    assert sorted(name for found in names(state).values() for name in found) == ["Ada", "Grace"]


@pytest.mark.parametrize(
    "said", [{"event": "track", "payload": 1}, {"event": "dance"}, {}], ids=["no-object", "unknown", "nothing"]
)
async def test_nonsense_about_presence_is_answered_as_an_error(stack: Stack, said: dict[str, Any]) -> None:
    async with socket(stack) as client:
        await client.join("lobby", PRESENT)

        assert (await client.ask("lobby", "presence", said))["status"] == "error"


async def test_on_a_private_topic_the_policies_say_who_may_be_present_and_who_may_see_it(stack: Stack) -> None:
    owner, stranger = await stack.sign_up(), await stack.sign_up()
    async with administrator(stack) as connection:
        await connection.execute(
            'create policy "All hear broadcasts" on realtime.messages for select to authenticated'
            " using (extension = 'broadcast')"
        )
    topic = f"user:{owner.user_id}"
    private = {"private": True, **PRESENT}
    async with socket(stack) as theirs, socket(stack) as other:
        await theirs.join(topic, private, access_token=owner.access_token)
        await other.join(topic, private, access_token=stranger.access_token)
        allowed = await track(theirs, topic, name="Ada")
        refused = await track(other, topic, name="Eve")
        seen = [frame["event"] for frame in await other.heard_by_now()]

    assert (allowed["status"], refused["status"]) == ("ok", "error")
    assert seen == []
