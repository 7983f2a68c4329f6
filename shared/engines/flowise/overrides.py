"""Keys into a flow's overrides, and whether its server would use them.

Flowise ignores an override that its flow does not enable, says nothing, and goes on with the key that is stored there.
So it is read beforehand which overrides the flow takes: what could be enabled (`flow-config`), and what is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from shared.engines.flowise.shapes import Flow, Overridable
from shared.errors import InvalidInput
from shared.runs.models import Json, JsonObject
from shared.vault.secret import Secret


def inject(
    overrides: JsonObject, tree: Mapping[str, object], credentials: Mapping[str, Mapping[str, Secret]]
) -> JsonObject:
    """The overrides with the fields of opened credentials in the places that `tree` names; a key wins over a setting.

    Raises:
        InvalidInput: a credential has no such field.
    """
    merged = dict(overrides)
    for name, value in tree.items():
        if isinstance(value, dict):
            inner = merged.get(name)
            settings = inner if isinstance(inner, dict) else {}
            merged[name] = inject(settings, cast("Mapping[str, object]", value), credentials)
        else:
            provider, _, field = str(value).partition(".")
            secret = credentials.get(provider, {}).get(field)
            if secret is None:
                raise InvalidInput(f"The {provider} credential has no field {field!r}, which the agent needs.")
            merged[name] = secret.reveal()
    return merged


def denied(wanted: Mapping[str, object], flow: Flow, overridable: Sequence[Overridable]) -> list[str]:
    """Which of these overrides would have no effect, or not at every node that has the parameter."""
    if flow.enabled.get("status") is not True:
        return [*wanted]
    labels = {one.node_id: one.node for one in overridable}
    nodes = flow.enabled.get("nodes")
    enabled = {label: _enabled(parameters) for label, parameters in (nodes if isinstance(nodes, dict) else {}).items()}
    refused: list[str] = []
    for name, value in wanted.items():
        if name == "vars":
            variables = _enabled(flow.enabled.get("variables"))
            refused += [f"vars.{one}" for one in cast("Mapping[str, object]", value) if one not in variables]
        elif not _is_taken(name, _nodes_of(value, labels), overridable, enabled):
            refused.append(name)
    return refused


def _is_taken(
    name: str, only: list[str] | None, overridable: Sequence[Overridable], enabled: Mapping[str, frozenset[str]]
) -> bool:
    concerned = only if only is not None else [one.node for one in overridable if one.name == name]
    if concerned:
        return all(name in enabled.get(label, frozenset()) for label in concerned)
    # Parameters of a model inside an agentflow's node are not all listed, but can be enabled.
    return any(name in parameters for parameters in enabled.values())


def _nodes_of(value: object, labels: Mapping[str, str]) -> list[str] | None:
    """The labels of the nodes that a value is meant for, when it is a map by node id."""
    if not isinstance(value, dict) or not value:
        return None
    ids = [*cast("Mapping[str, object]", value)]
    return [labels[one] for one in ids] if all(one in labels for one in ids) else None


def _enabled(parameters: Json) -> frozenset[str]:
    listed: Iterable[Json] = parameters if isinstance(parameters, list) else ()
    return frozenset(str(one.get("name")) for one in listed if isinstance(one, dict) and one.get("enabled") is True)
