"""The OpenAPI document of a set of endpoints, made of the same pydantic models that check and answer requests."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final, cast

from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from shared.http.endpoint import Endpoint, Method

Schema = dict[str, Any]

_REF_TEMPLATE: Final = "#/components/schemas/{model}"
_TEXT_OR_NULL: Final = {"anyOf": [{"type": "string"}, {"type": "null"}]}
_ERROR: Final[Schema] = {
    "type": "object",
    "description": "PostgREST's four keys and one more. docs/errors.md lists every code.",
    "required": ["code", "message", "details", "hint", "retryable"],
    "properties": {
        "code": {"type": "string"},
        "message": {"type": "string"},
        "details": _TEXT_OR_NULL,
        "hint": _TEXT_OR_NULL,
        "retryable": {"type": "boolean", "description": "The same call may succeed later without a change"},
    },
}
_ERRORS: Final = (400, 401, 403, 404, 405, 409, 413, 429, 500, 503)


def openapi(endpoints: Sequence[Endpoint[Any]], *, version: str) -> Schema:
    """Describe `endpoints` under /functions/v1, in OpenAPI 3.1."""
    schemas: Schema = {}
    paths = {f"/functions/v1/{endpoint.slug}": _path(endpoint, schemas) for endpoint in endpoints}
    schemas["Error"] = _ERROR
    return {
        "openapi": "3.1.0",
        "info": {"title": "Runbase", "version": version},
        "servers": [{"url": "http://127.0.0.1:54321", "description": "The embedded Supabase"}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {
                "user": {"type": "http", "scheme": "bearer", "description": "A user's session (JWT) or API key"},
                "service": {"type": "apiKey", "in": "header", "name": "apikey", "description": "The secret key"},
            },
        },
    }


def _path(endpoint: Endpoint[Any], schemas: Schema) -> Schema:
    return {method.lower(): _operation(endpoint, method, schemas) for method in endpoint.methods}


def _operation(endpoint: Endpoint[Any], method: Method, schemas: Schema) -> Schema:
    summary, _, description = endpoint.description.strip().partition("\n")
    accepts = _schema(endpoint.accepts, "validation", schemas)
    operation: Schema = {
        "operationId": f"{endpoint.slug}-{method.lower()}",
        "summary": summary.rpartition(": ")[2],
        "description": description.strip("\n"),
        "security": [] if endpoint.callers == "anyone" else [{endpoint.callers: []}],
        "parameters": [
            {"name": name, "in": "header", "description": meaning, "schema": {"type": "string"}}
            for name, meaning in endpoint.headers.items()
        ],
        "responses": {str(status): _reply(endpoint, status, schemas) for status in endpoint.replies}
        | {str(status): _refusal(status) for status in _ERRORS},
    }
    if method == "GET":
        operation["parameters"] += _query(accepts, schemas)
    else:
        operation["requestBody"] = {"content": {"application/json": {"schema": accepts}}}
    return operation


def _query(accepts: Schema, schemas: Schema) -> list[Schema]:
    """The fields of the accepted model as parameters; lists are written with commas."""
    name = cast("str", accepts["$ref"]).rpartition("/")[2]
    shape = cast("Schema", schemas[name])
    required = shape.get("required", [])
    return [
        {"name": field, "in": "query", "required": field in required, "schema": schema}
        | ({"style": "form", "explode": False} if schema.get("type") == "array" else {})
        for field, schema in cast("dict[str, Schema]", shape["properties"]).items()
    ]


def _reply(endpoint: Endpoint[Any], status: int, schemas: Schema) -> Schema:
    adapter = TypeAdapter[Any](cast("type[Any]", endpoint.replies[status]))
    schema = _schema(adapter, "serialization", schemas)
    return {
        "description": HTTPStatus(status).phrase,
        "headers": {"X-Request-Id": {"schema": {"type": "string"}}},
        "content": {"application/json": {"schema": schema}},
    }


def _refusal(status: int) -> Schema:
    error = {"$ref": _REF_TEMPLATE.format(model="Error")}
    return {"description": HTTPStatus(status).phrase, "content": {"application/json": {"schema": error}}}


def _schema(adapter: TypeAdapter[Any], mode: JsonSchemaMode, schemas: Schema) -> Schema:
    """The adapter's schema by reference; what it refers to is added to `schemas` under its own name."""
    schema = adapter.json_schema(ref_template=_REF_TEMPLATE, mode=mode)
    named: Schema = schema.pop("$defs", {})
    if schema.get("type") == "object":
        name = cast("str", schema["title"])
        named[name], schema = schema, {"$ref": _REF_TEMPLATE.format(model=name)}
    for name, shape in named.items():
        if schemas.setdefault(name, shape) != shape:
            raise ValueError(f"Two models are called {name}: the document could show only one of them")
    return schema
