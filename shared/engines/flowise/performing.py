"""The effects of a step: credentials opened, the flow asked, an outcome of bounded size made of the answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Final
from uuid import UUID, uuid5

import httpx

from shared.egress.client import egress_client
from shared.egress.policy import EgressPolicy, origin_of
from shared.engines.flowise.answer import Answer
from shared.engines.flowise.client import FlowiseClient, Limits
from shared.engines.flowise.config import Asked, FlowiseConfig
from shared.engines.flowise.conversation import Conversation, Patience, Question, Resume
from shared.engines.flowise.failures import FlowiseKeyRefused, InjectionDenied
from shared.engines.flowise.overrides import denied, inject
from shared.engines.flowise.viewing import Viewing
from shared.engines.flowise.wire import STREAM_BYTES
from shared.errors import AppError, InvalidInput, UpstreamBusy
from shared.logs import logger
from shared.runs.engine import Done, Failed, Outcome, StepContext
from shared.runs.models import JsonObject, NewMessage, Records, Run, Step, StepError
from shared.vault.secret import Secret

log = logger(__name__)

SERVER: Final = "flowise"  # the provider whose credential says where the server is, and holds its key
GRACE_SECONDS: Final = 20.0  # the step outlives its prediction by this: credentials before it, an abort after it
_PEOPLE: Final = UUID("5d0ab1c6-7e0f-5b5e-9c0f-3f6c0a0b7f11")  # under which the sessions of people are named

Connect = Callable[[frozenset[str]], httpx.AsyncClient]


def guarded(hosts: frozenset[str]) -> httpx.AsyncClient:
    """The client for these hosts alone; its own limits lie beyond ours."""
    seconds = Limits().total_seconds + GRACE_SECONDS
    return egress_client(EgressPolicy(allowed_hosts=hosts, total_seconds=seconds, max_bytes=STREAM_BYTES))


@dataclass(frozen=True, slots=True)
class Servers:
    """How servers are reached, and how patiently."""

    connect: Connect = guarded
    limits: Limits = field(default_factory=Limits)
    patience: Patience = field(default_factory=Patience)


async def predict(
    config: FlowiseConfig, asked: Asked, step: Step, ctx: StepContext, *, resume: Resume | None, servers: Servers
) -> Outcome:
    """Ask the flow, or answer what it has asked."""
    viewing = Viewing(ctx)
    async with AsyncExitStack() as stack:
        client, credentials = await _opened(config, ctx, stack, servers)
        try:
            overrides = await _overrides(config, asked, client, credentials, viewing)
            question = Question(
                flow_id=str(config.flow_id),
                session_id=_session_id(config, ctx.run),
                own_session=config.session == "run",
                asked=asked,
                overrides=overrides,
                resume=resume,
                streaming=config.streaming,
            )
            conversation = Conversation(client, question, step, viewing, patience=servers.patience)
            answer = await conversation.answer(seconds=config.timeout_seconds)
        except AppError as error:
            return _failed(error, config)
    return Done(answer.to_output(), _records(answer, asked, resume), credits=config.credits)


async def _opened(
    config: FlowiseConfig, ctx: StepContext, stack: AsyncExitStack, servers: Servers
) -> tuple[FlowiseClient, Mapping[str, Mapping[str, Secret]]]:
    """The client of the agent's server, and the fields of the credentials that go into the flow.

    Raises:
        InvalidInput: no server is named, another one than the credential's, or one of the run's choosing for a key that
            the agent brings: whoever names the server reads what is sent to it.
    """
    chosen_by_run = False
    if SERVER in ctx.run.credential_ids:
        server = await stack.enter_async_context(ctx.open_credential(SERVER))
        base_url, key, hosts = server.fields["base_url"].reveal(), server.fields.get("api_key"), server.allowed_hosts
        chosen_by_run = not server.managed and config.base_url is None
        if config.base_url is not None and origin_of(config.base_url) != origin_of(base_url):
            raise InvalidInput("The agent names another Flowise server than its credential is for.")
    elif config.base_url is not None:
        base_url, key, hosts = config.base_url, None, EgressPolicy.for_url(config.base_url).allowed_hosts or frozenset()
    else:
        raise InvalidInput("The agent names no Flowise server: it needs a flowise credential or a base_url.")
    credentials: dict[str, Mapping[str, Secret]] = {}
    for provider in config.providers:
        opened = await stack.enter_async_context(ctx.open_credential(provider))
        if opened.managed and chosen_by_run:
            raise InvalidInput(
                f"The agent's own {provider} credential goes to the agent's own Flowise server alone, and this run "
                f"names another: leave that out, or name a {provider} credential of your own too."
            )
        credentials[provider] = opened.fields
    http = await stack.enter_async_context(servers.connect(hosts))
    limits = replace(servers.limits, total_seconds=min(servers.limits.total_seconds, config.timeout_seconds))
    return FlowiseClient(http, base_url=base_url, api_key=key, limits=limits), credentials


async def _overrides(
    config: FlowiseConfig,
    asked: Asked,
    client: FlowiseClient,
    credentials: Mapping[str, Mapping[str, Secret]],
    viewing: Viewing,
) -> JsonObject:
    """What is sent as overrides, once it is known that the flow takes it.

    Raises:
        InjectionDenied: the flow would go on without the person's key, at whoever's cost.
    """
    if not asked.overrides and not config.injection:
        return {}
    refused = await _refused({**asked.overrides, **config.injection}, config, client)
    injected = sorted(set(_names(config.injection)) & set(refused))
    if injected and config.require_injection:
        log.warning("flowise.injection_denied flow_id=%s parameters=%s", config.flow_id, injected)
        raise InjectionDenied(
            f"The flow would not use the credential that it is given ({', '.join(config.providers)}): its server does "
            "not allow that override.",
            hint="The agent's admin enables the parameter under Override Configuration in Flowise.",
        )
    if refused:
        log.warning("flowise.overrides_ignored flow_id=%s parameters=%s", config.flow_id, refused)
        viewing.line("warning", "The flow ignores some of the agent's settings", {"settings": len(refused)})
    return inject(asked.overrides, config.injection, credentials)


async def _refused(wanted: JsonObject, config: FlowiseConfig, client: FlowiseClient) -> list[str]:
    flow_id = str(config.flow_id)
    try:
        return denied(wanted, await client.flow(flow_id), await client.flow_config(flow_id))
    except FlowiseKeyRefused:
        # A key that may not look cannot show that the flow would take what it is given.
        return _names(wanted)


def _names(tree: JsonObject) -> list[str]:
    names: list[str] = []
    for name, value in tree.items():
        names += [f"vars.{one}" for one in value] if name == "vars" and isinstance(value, dict) else [name]
    return names


def _session_id(config: FlowiseConfig, run: Run) -> str:
    if config.session == "run" or run.agent is None:
        return str(run.id)
    return str(uuid5(_PEOPLE, f"{run.agent.agent_id}:{run.account_id}:{run.user_id}"))


def _records(answer: Answer, asked: Asked, resume: Resume | None) -> Records:
    messages: list[NewMessage] = []
    if resume is None and asked.question is not None:
        messages.append(NewMessage("user", [{"type": "text", "text": asked.question}]))
    if answer.text:
        messages.append(NewMessage("assistant", [{"type": "text", "text": answer.text}]))
    return Records(messages=tuple(messages))


def _failed(error: AppError, config: FlowiseConfig) -> Failed:
    """The step's failure. Tried again, after a while, only where nothing was started at the server."""
    busy = isinstance(error, UpstreamBusy)
    said = {"flowise": error.details, "hint": error.hint}
    details: JsonObject = {name: text for name, text in said.items() if text is not None}
    failure = StepError(error.code, error.message, retryable=busy, details=details or None)
    pause = error.retry_after_seconds if isinstance(error, UpstreamBusy) else None
    # A refusal before anything was asked costs nothing; what broke or failed later may have cost its provider calls.
    return Failed(failure, credits=0 if busy else config.credits, retry_after_seconds=pause)
