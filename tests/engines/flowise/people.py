"""A seller whose agent is a flow, and a buyer with a key, as they have left the database."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from local.stand_ins.flowise import Flow, FlowiseServer
from shared.direct_database import DirectDatabase
from shared.engines.flowise.conversation import Patience
from shared.engines.flowise.engine import FlowiseEngine
from shared.engines.flowise.performing import Servers
from shared.runs.models import RunId
from shared.runs.store import RunStore
from shared.runs.worker import Worker, WorkerOptions
from shared.vault.opening import Vault
from tests.engines.flowise.conftest import QUICK
from tests.support.canaries import canary
from tests.support.runs import Person, new_person
from tests.vault.people import add_credential, ring

OPTIONS = WorkerOptions(heartbeat_seconds=0.2, poll_seconds=0.1)


@dataclass(frozen=True)
class Shop:
    """An agent, who sells it, and who bought it. `key` is the buyer's, as he entered it."""

    seller: Person
    buyer: Person
    key: str
    agent_id: str

    async def run(self, **request: Any) -> RunId:
        """The buyer starts a run."""
        asked = {"agent_id": self.agent_id, "input": {"question": "Hi"}, "autostart": True, **request}
        answer = await self.buyer.call("create_run", json.dumps(asked), None)
        return RunId(UUID(answer["run_id"]))


async def open_shop(
    url: str, flowise: FlowiseServer, flow: Flow, *, sellers_key: str | None = None, **config: Any
) -> Shop:
    """Everything up to the buyer's first run; the buyer's OpenAI key goes into the flow, or the seller's if given."""
    keys = ring(1)
    seller, buyer = await new_person(url), await new_person(url)
    server = await add_credential(seller, keys, "flowise", base_url=flowise.url, api_key=flowise.key)
    managed = {"flowise": str(server)}
    if sellers_key is not None:
        managed["openai"] = str(await add_credential(seller, keys, "openai", api_key=sellers_key))
    injection = {"openAIApiKey": "openai.api_key"}
    draft = {
        "name": "A flow",
        "engine": "flowise",
        "config": {"flow_id": flow.id, "injection": injection, **config},
        "credential_types": ["flowise", "openai"],
        "managed_credentials": managed,
        "visibility": "public",
    }
    agent_id = (await seller.call("create_agent", json.dumps(draft)))["agent_id"]
    await seller.call("publish_agent", agent_id)
    await seller.call("grant_agent", agent_id, buyer.id)
    key = canary()
    await add_credential(buyer, keys, "openai", api_key=key)
    return Shop(seller, buyer, key, agent_id)


def flows_engine() -> dict[str, FlowiseEngine]:
    return {"flowise": FlowiseEngine(Servers(limits=QUICK, patience=replace(Patience(), after_crash_seconds=0.5)))}


@asynccontextmanager
async def working(database: DirectDatabase) -> AsyncGenerator[Worker]:
    """A worker beside the test; it gives back what it holds at the end."""
    worker = _worker(database)
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        await task


async def work_off(database: DirectDatabase) -> None:
    """Work until nothing is due, as a worker that has just started."""
    await _worker(database).run(until_idle=True)


def _worker(database: DirectDatabase) -> Worker:
    return Worker(RunStore(database), flows_engine(), options=OPTIONS, vault=Vault(database, ring(1)))
