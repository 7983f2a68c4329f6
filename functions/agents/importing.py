"""From a Flowise flow to the draft of an agent: which flow, what its form asks, and what of it each field becomes.

The server's key comes with the call and is kept nowhere: this function cannot open what is sealed. Runs use a
credential.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final, cast

from functions.agents.answers import FlowCard
from functions.agents.bodies import FlowInput, ImportFlow, ListFlows
from shared.agents.forms import ORDER
from shared.egress.client import egress_client
from shared.egress.policy import EgressPolicy
from shared.engines.flowise.client import FlowiseClient, Limits
from shared.engines.flowise.shapes import Flow
from shared.errors import NotFound
from shared.runs.models import Json, JsonObject
from shared.vault.secret import Secret

_SECONDS: Final = 10.0  # of one call: a person waits
_LIMITS: Final = Limits(call_seconds=_SECONDS, tries=1)
_PARTS: Final = {"form": "form", "vars": "vars", "override": "overrideConfig"}


async def list_flows(body: ListFlows) -> list[FlowCard]:
    """What the key may see, by name."""
    async with _server(body) as server:
        flows = await server.list_flows()
    return [_card(flow) for flow in sorted(flows, key=lambda flow: flow.name.lower())]


async def draft_of_flow(body: ImportFlow) -> JsonObject:
    """The request that makes the agent, as `create_agent` takes it.

    Raises:
        NotFound: the server has no such flow, or the key may not see it.
    """
    flow_id = str(body.flow_id)
    async with _server(body) as server:
        flow = next((flow for flow in await server.list_flows() if flow.id.lower() == flow_id), None)
    if flow is None:
        raise NotFound(f"The server has no flow {flow_id}, or the key may not see it")
    config: JsonObject = {"flow_id": flow_id, "input": _mapping(body.inputs)}
    needs_key = body.credential_id is not None or body.api_key is not None
    if not needs_key:
        config["base_url"] = body.base_url
    if body.injection:
        config["injection"] = cast("JsonObject", body.injection)
    types = {"flowise"} if needs_key else set[str]()
    return {
        "name": body.name or flow.name[:200],
        "description": body.description,
        "engine": "flowise",
        "config": config,
        "input_schema": _schema(body.inputs),
        "credential_types": [*sorted(types | set(_providers(body.injection)))],
        "managed_credentials": {} if body.credential_id is None else {"flowise": str(body.credential_id)},
    }


@asynccontextmanager
async def _server(body: ListFlows | ImportFlow) -> AsyncGenerator[FlowiseClient]:
    key = None if body.api_key is None else Secret(body.api_key.get_secret_value())
    async with egress_client(EgressPolicy.for_url(body.base_url, total_seconds=_SECONDS)) as http:
        yield FlowiseClient(http, base_url=body.base_url, api_key=key, limits=_LIMITS)


def _card(flow: Flow) -> FlowCard:
    nodes = flow.enabled.get("nodes") if flow.enabled.get("status") is True else None
    overridable = {
        label: [str(one.get("name")) for one in parameters if isinstance(one, dict) and one.get("enabled") is True]
        for label, parameters in (nodes if isinstance(nodes, dict) else {}).items()
        if isinstance(parameters, list)
    }
    return FlowCard(flow_id=flow.id, name=flow.name, kind=flow.kind, category=flow.category, overridable=overridable)


def _mapping(inputs: list[FlowInput]) -> JsonObject:
    mapping: JsonObject = {}
    for given in inputs:
        part, _, name = given.becomes.partition(".")
        if name:
            cast("JsonObject", mapping.setdefault(_PARTS[part], {}))[name] = f"$.{given.name}"
        else:
            mapping["question"] = f"$.{given.name}"
    return mapping


def _schema(inputs: list[FlowInput]) -> JsonObject:
    properties: JsonObject = {
        given.name: {**cast("JsonObject", given.schema_), ORDER: at} for at, given in enumerate(inputs)
    }
    required: list[Json] = [given.name for given in inputs if given.required]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _providers(injection: object) -> list[str]:
    """The providers that an injection names in its leaves; what is wrong with it is said when the draft is checked."""
    if isinstance(injection, dict):
        return [name for inner in cast("dict[str, object]", injection).values() for name in _providers(inner)]
    return [injection.partition(".")[0]] if isinstance(injection, str) and "." in injection else []
