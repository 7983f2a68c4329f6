"""Which function a call means, and the SQL that calls it."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from psycopg.sql import SQL, Composable, Identifier

from local.rest.body import Payload, raw_json
from local.rest.catalog import Argument, Catalog, Function
from local.rest.conditions import array_literal
from local.rest.errors import ApiError
from local.rest.similar import similar
from local.rest.sql import Parameters, deparsed, joined, qualified

_JSON = frozenset({"json", "jsonb"})
# What a single unnamed parameter may take whole, by the body's Content-Type.
_WHOLE_BODY = {
    "application/json": _JSON,
    "text/plain": frozenset({"text"}),
    "application/octet-stream": frozenset({"bytea"}),
    "text/xml": frozenset({"xml"}),
}
# Of these the arguments have no names, so that only the type can be missing.
WHOLE_BODY_WORDS = {"text/plain": "text", "application/octet-stream": "bytea", "text/xml": "xml"}
_ONLY_ARGUMENT = re.compile(rb'\s*\{\s*"([^"\\]*)"\s*:(.*)\}\s*', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Call:
    """A function with how it gets its arguments."""

    function: Function
    takes_whole_body: bool = False


def find_function(
    catalog: Catalog, schema: str, name: str, *, given: Collection[str], content_type: str | None
) -> Call:
    """Find the one function that can be called with exactly the arguments `given` by name.

    A function with a single unnamed parameter takes the whole body, if that is of the right `content_type`
    (None is no body).

    Raises:
        ApiError: PGRST202 if there is none, PGRST203 if there are several.
    """
    overloads = catalog.routines.get((schema, name), ())
    found = [] if content_type not in {None, "application/json"} else [f for f in overloads if _accepts(f, given)]
    if len(found) == 1:
        return Call(found[0], takes_whole_body=found[0].takes_whole is not None)
    if not found:
        whole = [function for function in overloads if _takes_whole(function, content_type)]
        if len(whole) == 1:
            return Call(whole[0], takes_whole_body=True)
        found = whole
    if not found:
        raise no_function(catalog, schema, name, given, content_type)
    raise ApiError(
        300,
        "PGRST203",
        f"Could not choose the best candidate function between: {', '.join(f.signature for f in found)}",
        hint="Try renaming the parameters or the function itself in the database so function overloading "
        "can be resolved",
    )


def _accepts(function: Function, given: Collection[str]) -> bool:
    arguments = function.arguments
    required = {argument.name for argument in arguments if not (argument.is_optional or argument.is_variadic)}
    return required.issubset(given) and {argument.name for argument in arguments}.issuperset(given)


def _takes_whole(function: Function, content_type: str | None) -> bool:
    return function.takes_whole in _WHOLE_BODY.get(content_type or "", frozenset[str]())


def no_function(catalog: Catalog, schema: str, name: str, given: Collection[str], content_type: str | None) -> ApiError:
    names = sorted(given)
    whole = WHOLE_BODY_WORDS.get(content_type or "")
    if whole is not None:
        called, searched, hint = "", f" with a single unnamed {whole} parameter", None
    else:
        called = f"({', '.join(names)})" if names else " without parameters"
        searched = f" with parameter{'s' if len(names) > 1 else ''} {', '.join(names)}" if names else called
        if content_type == "application/json":
            searched += " or with a single unnamed json/jsonb parameter"
        close = _similar_call(catalog, schema, name, names)
        hint = f"Perhaps you meant to call the function {schema}.{close}" if close else None
    return ApiError(
        404,
        "PGRST202",
        f"Could not find the function {schema}.{name}{called} in the schema cache",
        details=f"Searched for the function {schema}.{name}{searched}, but no matches were found in the schema cache.",
        hint=hint,
    )


def _similar_call(catalog: Catalog, schema: str, name: str, names: Sequence[str]) -> str | None:
    """Of an existing function the closest arguments, else the closest function."""
    overloads = catalog.routines.get((schema, name), ())
    if not overloads:
        return similar(name, (known for own, known in catalog.routines if own == schema))
    arguments = (", ".join(sorted(one.name for one in function.arguments)) for function in overloads)
    close = similar(f"({', '.join(names)})", [f"({names})" for names in arguments])
    return f"{name}{close}" if close else None


def with_object(function: Function, payload: Payload, parameters: Parameters) -> Composable:
    """Call with the members of a JSON object, of several with those of the first."""
    given = [argument for argument in function.arguments if argument.name in payload.keys]
    only = _only_json_argument(payload, given)
    if only is not None:
        # The database parses a large argument once instead of three times.
        value = SQL("{}::{}").format(parameters.bind(raw_json(only)), deparsed(given[0].type))
        return _result(function, SQL("{}({} := {})").format(_name(function), Identifier(given[0].name), value))
    if not given:
        return _result(function, SQL("{}()").format(_name(function)))
    form = "(select * from json_to_recordset({}) as pgrst_row({}) limit 1) as pgrst_arguments"
    record = SQL(form if payload.is_list else "json_to_record({}) as pgrst_arguments({})").format(
        parameters.bind(payload.json),
        joined(SQL("{} {}").format(Identifier(one.name), deparsed(one.type)) for one in given),
    )
    arguments = joined(_named(one, Identifier("pgrst_arguments", one.name)) for one in given)
    return _result(function, SQL("{}({})").format(_name(function), arguments), record)


def with_texts(function: Function, pairs: Sequence[tuple[str, str]], parameters: Parameters) -> Composable:
    """Call with arguments in text form, as a query string or a form has them. A variadic one may come repeatedly."""
    values: dict[str, list[str]] = {}
    for name, value in pairs:
        values.setdefault(name, []).append(value)
    arguments: list[Composable] = []
    for argument in function.arguments:
        texts = values.get(argument.name)
        if texts is None or not argument.name:
            continue
        is_list = argument.is_variadic and not texts[0].startswith("{")
        bound = parameters.bind(array_literal(tuple(texts)) if is_list else texts[-1])
        arguments.append(_named(argument, SQL("{}::{}").format(bound, deparsed(argument.type))))
    return _result(function, SQL("{}({})").format(_name(function), joined(arguments)))


def with_whole_body(function: Function, body: bytes, parameters: Parameters) -> Composable:
    """Call with the body as the only, unnamed argument."""
    kind = function.arguments[0].type
    value = raw_json(body) if kind in _JSON else body if kind == "bytea" else body.decode(errors="replace")
    argument = SQL("{}::{}").format(parameters.bind(value), deparsed(kind))
    return _result(function, SQL("{}({})").format(_name(function), argument))


def _only_json_argument(payload: Payload, given: Sequence[Argument]) -> bytes | None:
    """The text of the body's only member, where that is the whole of the arguments and a JSON one."""
    if (
        payload.is_list
        or len(payload.keys) != 1
        or len(given) != 1
        or given[0].type not in _JSON
        or given[0].is_variadic
    ):
        return None
    found = _ONLY_ARGUMENT.fullmatch(payload.raw)
    # A name that occurs again may be the same member twice, of which the last counts.
    return found[2] if found and payload.raw.count(b'"%s"' % found[1]) == 1 else None


def _name(function: Function) -> Composable:
    return qualified((function.schema, function.name))


def _named(argument: Argument, value: Composable) -> Composable:
    variadic = SQL("variadic ") if argument.is_variadic else SQL("")
    return SQL("{}{} := {}").format(variadic, Identifier(argument.name), value)


def _result(function: Function, call: Composable, record: Composable | None = None) -> Composable:
    """Select from the call: rows with their own columns, plain values as `pgrst_scalar`.

    A record without declared columns is such a value, and cannot stand where rows are read from.
    """
    if function.returns_rows:
        source = SQL("{} as pgrst_result").format(call)
    elif function.returns == "record":
        source = SQL("(select {} as pgrst_scalar) as pgrst_result").format(call)
    else:
        source = SQL("{} as pgrst_result(pgrst_scalar)").format(call)
    if record is not None:
        source = SQL("{}, lateral {}").format(record, source)
    return SQL("select pgrst_result.* from {}").format(source)
