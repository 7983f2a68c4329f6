"""The port between the run core and the engines: an engine only says what comes next.

`open`, `apply` and `decide` are pure, so that a run continues on any machine from its rows alone; `perform` is the only
place with effects. The runner makes every step durable, retries, times out, cancels and books; an engine never does.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import field
from typing import Literal, Protocol, TypeAlias, TypeVar, runtime_checkable
from uuid import UUID

from shared.runs.models import (
    Artifact,
    Json,
    JsonObject,
    NewLog,
    NewStep,
    Records,
    Run,
    RunView,
    Step,
    StepError,
    StepResult,
    record,
)
from shared.runs.status import RunStatus
from shared.vault.secret import Secret


@record
class StartSteps:
    """Start these steps (in parallel, up to the run's limit) and move to `status` if it differs.

    All that can be started now: the next decision is drawn when one of the open steps has ended.
    """

    steps: tuple[NewStep, ...]
    status: Literal[RunStatus.PLANNING, RunStatus.EXECUTING] = RunStatus.EXECUTING
    logs: tuple[NewLog, ...] = ()


@record
class Wait:
    """Nothing new to start: open steps decide what happens next."""


@record
class Finish:
    """The run is completed."""

    output: JsonObject
    logs: tuple[NewLog, ...] = ()


@record
class Fail:
    """The run has failed."""

    error: StepError
    logs: tuple[NewLog, ...] = ()


Decision: TypeAlias = StartSteps | Wait | Finish | Fail


@record
class Done:
    """A step's result. `credits` is what it cost, in micro-credits, at most the step's bound."""

    output: JsonObject = field(default_factory=dict[str, "Json"])
    records: Records = field(default_factory=Records)
    credits: int = 0


@record
class Failed:
    """A step's failure. A retryable one is tried again, after `retry_after_seconds` if given, else by back-off."""

    error: StepError
    records: Records = field(default_factory=Records)
    credits: int = 0
    retry_after_seconds: float | None = None


@record
class HumanRequest:
    """A question to a person. The answer becomes the step's output: {"response": ...}."""

    prompt: str
    kind: Literal["question", "approval"] = "question"
    options: tuple[str, ...] = ()


@record
class Event:
    """Something that is told from outside, once: its payload becomes the step's output. See docs/webhooks.md.

    Attributes:
        token_hash: SHA-256, as hex, of the token that who delivers the event must show.
        timeout_seconds: After these the step fails as `event_timeout`; None: as many as the step itself may take.
    """

    token_hash: str
    timeout_seconds: float | None = None


@record
class Waiting:
    """The step stays open, costing nothing, until a person answers, an event comes or a time has come (output: {})."""

    on: HumanRequest | Event | float
    records: Records = field(default_factory=Records)
    credits: int = 0


Outcome: TypeAlias = Done | Failed | Waiting


class OpenCredential(Protocol):
    """A person's credential in plain form, as long as the `async with` around it."""

    @property
    def provider(self) -> str: ...

    @property
    def credential_id(self) -> UUID: ...

    @property
    def fields(self) -> Mapping[str, Secret]:
        """What the person entered, by the provider's field names, such as `api_key` and `base_url`."""
        ...

    @property
    def allowed_hosts(self) -> frozenset[str]:
        """The only hosts that the values may be sent to."""
        ...

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """What must be shown nowhere."""
        ...

    @property
    def managed(self) -> bool:
        """Whether the agent brought it, and not who runs the agent: then it goes nowhere that the run has named."""
        ...


class CredentialVault(Protocol):
    """Where a worker gets credentials from: `shared.vault.opening.Vault`."""

    def open(
        self, *, run_id: UUID, lease_id: UUID, step_no: int, attempt: int, provider: str
    ) -> AbstractAsyncContextManager[OpenCredential]:
        """Open what the run has for a provider, for this attempt of this step."""
        ...


class StepContext(Protocol):
    """What `perform` may use besides the step itself."""

    @property
    def run(self) -> Run: ...

    async def delta(self, text: str) -> None:
        """Show model output while it is being written; not stored beyond the step."""
        ...

    def log(self, line: NewLog) -> None:
        """Write a line into the run's log now, while the step goes on; an outcome's own lines come after it.

        It is committed with the run's next advance, which it brings about. A worker that is killed before that takes it
        along, and where the answer of the database was lost it may be there twice. Lines over `LIVE_LINES` of one
        attempt are only counted.
        """
        ...

    def spent(self, micro_credits: int) -> None:
        """Say what this attempt has cost so far, as far as known.

        Booked when the attempt is interrupted, times out or raises; an outcome says its own cost.
        """
        ...

    def open_credential(self, provider: str) -> AbstractAsyncContextManager[OpenCredential]:
        """Open the run's credential for a provider, for this attempt alone.

        Whatever the step leaves behind is redacted of its values, in every encoding; they are sent to `allowed_hosts`
        and nowhere else, and not kept beyond the `async with`.

        Raises:
            CredentialMissing: the run has none for the provider, or it was deleted.
            VaultSealed: it cannot be opened; as NoVault, no credential can be opened by this worker.
            UpstreamBusy: the key service cannot be asked now.
        """
        ...

    async def artifacts(self, names: tuple[str, ...]) -> Mapping[str, Artifact]:
        """Load the newest artifact of each name; a name that does not exist is absent."""
        ...

    async def results(self, step_nos: tuple[int, ...]) -> Mapping[int, StepResult]:
        """Load the results of these steps, from memory where they passed through here lately.

        A step that does not exist or has not ended is absent. So a step may refer to an output by its number, and the
        state need not carry it.
        """
        ...


@record
class Snapshot:
    """A state as an engine wants it back: small, and growing as little as can be while the run grows.

    Attributes:
        state: Plain JSON. Over 32 KB it is not stored, and a new slice reads all results.
        keep: Ended steps whose results `open` wants to see again: references in the place of text.
    """

    state: JsonObject
    keep: tuple[int, ...] = ()


State = TypeVar("State")
State_contra = TypeVar("State_contra", contravariant=True)


class Engine(Protocol[State]):
    """One way of running: agent, workflow, prompt, an outside engine.

    `State` is the engine's own; the runner only hands it back. After `apply` the old state is never used again, so an
    engine may change it in place.
    """

    name: str

    def open(self, view: RunView) -> State:
        """Build the state from what is recorded. Pure.

        Equals folding `apply` over all results. A `view.snapshot` is the engine's own; from it the state is built with
        `view.kept` and then folded over `view.results`, which are only those since.
        """
        ...

    def apply(self, state: State, result: StepResult) -> State:
        """Take in one ended step (completed, failed, skipped or cancelled). Pure, O(1) amortised."""
        ...

    def decide(self, state: State) -> Decision:
        """Say what comes next. Pure; called after every result, also while steps are running.

        A step that was started but is not in the results yet is known to the state by `started`.
        """
        ...

    def started(self, state: State, step: Step) -> State:
        """Take note that a step is open (just started, or found open by `open`'s runner). Pure."""
        ...

    async def perform(self, state: State, step: Step, ctx: StepContext) -> Outcome:
        """Perform one step. Cancellation must stop it.

        Takes what it needs of `state` before its first await, for `apply` may change the state meanwhile, and never
        changes it. An AppError fails the step with its code and `retryable`; any other exception as `internal`, not
        retried.
        """
        ...


@runtime_checkable
class Snapshotting(Protocol[State_contra]):
    """What an engine adds whose runs grow long: without it a new slice of a run reads all results.

    `snapshot_version` changes with the shape or the meaning of the state; a snapshot of another version is not read.
    """

    snapshot_version: int

    def snapshot(self, state: State_contra) -> Snapshot | None:
        """Say how to build this state again. Pure; None: read all results instead.

        What `started` told of steps that are still open is left out, for it is told again. The law: opening from the
        snapshot and the results since equals folding all results, also after a trip through JSON.
        """
        ...
