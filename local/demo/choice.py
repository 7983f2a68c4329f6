"""Which model the demo's agent talks to, settled before anything is started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from shared.errors import InvalidInput
from shared.llm.recording import Recording
from shared.llm.registry import model_from_env

RECORDING = "demo"


class NoModel(Exception):  # noqa: N818 - says what is the matter
    """Nothing here can answer the prompt; the message has the ways out."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What is asked, and who answers. `note` is one sentence for the person at the terminal."""

    prompt: str
    model: str
    note: str


def choose(prompt: str | None, env: Mapping[str, str]) -> Choice:
    """Take the model that the environment names, else the recorded conversation, if it is the one for the prompt.

    Raises:
        NoModel: only a recording could answer, and it was made for another prompt; or the setting names no model.
    """
    asked = prompt.strip() if prompt is not None else None
    if asked == "":
        raise NoModel("The prompt is empty.")
    try:
        model = model_from_env(env)
        name = f"scripted:{RECORDING}" if model is None else model.name
        recorded = Recording.load(name.removeprefix("scripted:")).prompt if name.startswith("scripted:") else None
    except InvalidInput as error:
        raise NoModel(" ".join(filter(None, [error.message, error.hint]))) from error
    if recorded is None:
        return Choice(asked or Recording.load(RECORDING).prompt, name, name)
    if asked not in {None, recorded}:
        raise NoModel(
            f"No model is configured, and the recorded conversation has one prompt only: {recorded!r}. For any other, "
            "set ANTHROPIC_API_KEY, or RUNBASE_LLM=provider:model, such as RUNBASE_LLM=ollama:qwen3 for a model on "
            "this machine (docs/models.md has them all)."
        )
    note = (
        f"none is configured, so a recorded conversation answers ({name}); ANTHROPIC_API_KEY or RUNBASE_LLM brings one"
    )
    return Choice(recorded, name, note)
