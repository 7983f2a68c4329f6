"""The form of an input schema: its top properties in order, each as one field that a frontend knows how to draw.

What is nested deeper than a list of texts is a field of kind `json`, with its schema in the version's input schema.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal, cast

from pydantic import BaseModel, Field, JsonValue

from shared.runs.models import Json, JsonObject

Kind = Literal[
    "text", "textarea", "number", "integer", "boolean", "choice", "choices", "list", "date", "time", "date-time",
    "email", "url", "json",
]  # fmt: skip

ORDER: Final = "x-order"
"""Where a property stands in the form. PostgreSQL keeps no order of keys, so it is written down with the schema."""

_BY_FORMAT: Final[dict[str, Kind]] = {
    "textarea": "textarea",
    "markdown": "textarea",
    "code": "textarea",
    "date": "date",
    "time": "time",
    "date-time": "date-time",
    "email": "email",
    "url": "url",
    "uri": "url",
}
_BY_TYPE: Final[dict[str, Kind]] = {
    "string": "text",
    "number": "number",
    "integer": "integer",
    "boolean": "boolean",
}


class InputField(BaseModel):
    """One field of a form. A limit is there only if the schema has it."""

    name: str
    label: str
    kind: Kind
    required: bool
    help: str | None = None
    default: JsonValue = None
    options: list[JsonValue] | None = Field(default=None, description="What can be chosen")
    minimum: float | None = Field(default=None, description="Least number, length or count")
    maximum: float | None = Field(default=None, description="Greatest number, length or count")
    pattern: str | None = None


def with_order(schema: JsonObject) -> JsonObject:
    """The schema with the order in which its properties were written, where it does not say one itself."""
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return schema
    ordered: JsonObject = {
        name: {**part, ORDER: part.get(ORDER, at)} if isinstance(part, dict) else part
        for at, (name, part) in enumerate(properties.items())
    }
    return {**schema, "properties": ordered}


def form_of(schema: JsonObject) -> list[InputField]:
    """The fields of a schema that passed `problems_with_schema`."""
    required = cast("list[str]", schema.get("required", []))
    fields = [(_order(part), name, _field(name, part, required=name in required)) for name, part in _properties(schema)]
    return [field for _, _, field in sorted(fields, key=lambda item: item[:2])]


def _properties(schema: JsonObject) -> Iterator[tuple[str, JsonObject]]:
    defs = cast("JsonObject", schema.get("$defs", {}))
    for name, part in cast("JsonObject", schema.get("properties", {})).items():
        if not isinstance(part, dict):
            if part is not False:
                yield name, {}
            continue
        referred = defs.get(str(part.get("$ref", "")).removeprefix("#/$defs/"))
        yield name, {**referred, **part} if isinstance(referred, dict) else part


def _order(part: JsonObject) -> float:
    order = part.get(ORDER)
    return float(order) if isinstance(order, int | float) and not isinstance(order, bool) else float("inf")


def _field(name: str, part: JsonObject, *, required: bool) -> InputField:
    kind = _kind(part)
    options = _options(part, kind)
    return InputField(
        name=name,
        label=_text(part, "title") or name.replace("_", " ").capitalize(),
        kind=kind,
        required=required,
        help=_text(part, "description"),
        default=cast("JsonValue", part.get("default")),
        options=options,
        minimum=_number(part, "minimum", "minLength", "minItems"),
        maximum=_number(part, "maximum", "maxLength", "maxItems"),
        pattern=_text(part, "pattern"),
    )


def _kind(part: JsonObject) -> Kind:
    if isinstance(part.get("enum"), list):
        return "choice"
    kind = part.get("type")
    items = part.get("items")
    if kind == "array" and isinstance(items, dict):
        if isinstance(items.get("enum"), list):
            return "choices"
        return "list" if items.get("type") == "string" else "json"
    if kind == "string":
        return _BY_FORMAT.get(str(part.get("format")), "text")
    return _BY_TYPE.get(kind, "json") if isinstance(kind, str) else "json"


def _options(part: JsonObject, kind: Kind) -> list[JsonValue] | None:
    if kind not in {"choice", "choices"}:
        return None
    chosen_from = part if kind == "choice" else cast("JsonObject", part["items"])
    return cast("list[JsonValue]", chosen_from["enum"])


def _text(part: JsonObject, keyword: str) -> str | None:
    value: Json = part.get(keyword)
    return value if isinstance(value, str) else None


def _number(part: JsonObject, *keywords: str) -> float | None:
    values = (part.get(keyword) for keyword in keywords)
    return next((float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)), None)
