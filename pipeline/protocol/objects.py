"""JSON objects as frozen msgspec structs: strict types, bounded numbers, errors that name the field.

`snake_case` here is `camelCase` on the wire. An optional field (default None) that is None is
omitted; a received `null` counts as omitted; unknown fields are ignored, so that either end may
learn new ones first. A bool is not a number, and every number has its bounds in its type
(`Annotated[int, Meta(ge=0, le=9)]`), so that neither infinities nor huge integers get through.

msgspec validates the values. The text is parsed and written by the standard library, which can do
what msgspec's own parser and writer do not: refuse a key given twice and a NaN, and write any string.
"""

import json
from collections.abc import Mapping
from functools import cache
from types import NoneType
from typing import Annotated, Any, TypeVar, get_args

import msgspec
from msgspec import Meta, inspect, structs

from pipeline.protocol.faults import Fault, LocalProtocolError, RemoteProtocolError

SAFE_INTEGER = (1 << 53) - 1  # beyond it JavaScript's numbers skip integers

Natural = Annotated[int, Meta(ge=0, le=SAFE_INTEGER)]


class WireObject(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Base of every class that is one JSON object on the wire."""


T = TypeVar("T", bound=WireObject)


class FieldError(Exception):
    """A field is missing, mistyped or out of range; `path` is its name on the wire, dotted."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path} {problem}")
        self.path = path
        self.problem = problem


def to_fields(value: WireObject) -> dict[str, Any]:
    """The JSON object of a struct, by wire name."""
    fields: dict[str, Any] = msgspec.to_builtins(value)
    return fields


def from_fields(cls: type[T], fields: Mapping[str, Any], path: str) -> T:
    """Validate a JSON object as `cls`.

    Raises:
        FieldError: the first field that is missing, mistyped or out of range, by its dotted path.
    """
    return cls(**{
        field.name: _convert(field.type, fields.get(field.encode_name), f"{path}.{field.encode_name}")
        for field in _fields_of(cls)
    })  # fmt: skip


@cache
def _fields_of(cls: type[WireObject]) -> tuple[structs.FieldInfo, ...]:
    return structs.fields(cls)


def _convert(hint: Any, value: Any, path: str) -> Any:  # noqa: ANN401 - any type, any JSON
    try:
        return msgspec.convert(value, hint)
    except (msgspec.ValidationError, UnicodeEncodeError):  # half a surrogate pair where no text is expected
        if value is None:
            raise FieldError(path, "is missing") from None
    inner = next((arm for arm in get_args(hint) if NoneType in get_args(hint) and arm is not NoneType), hint)
    match inspect.type_info(inner):
        case inspect.StructType() if isinstance(value, dict):
            return from_fields(inner, value, path)
        case inspect.VarTupleType() if isinstance(value, list):
            return tuple(_convert(get_args(inner)[0], each, f"{path}[{i}]") for i, each in enumerate(value))
        case _:
            raise FieldError(path, f"must be {_description(inner)}")


def _description(hint: Any) -> str:  # noqa: ANN401 - any type
    match inspect.type_info(hint):
        case inspect.StructType():
            expected = "an object"
        case inspect.VarTupleType():
            expected = "a list"
        case inspect.LiteralType():
            expected = f"one of {', '.join(get_args(hint))}"
        case inspect.BytesType():
            expected = "base64"
        case inspect.BoolType():
            expected = "true or false"
        case inspect.IntType(ge=low, le=high):
            expected = f"a whole number from {low} to {high}"
        case inspect.FloatType(ge=low, le=high):
            expected = f"a number from {low:.16g} to {high:.16g}"
        case inspect.StrType(max_length=int(longest)):
            expected = f"a string of at most {longest} characters"
        case _:
            expected = "a string"
    return expected


def encode(fields: Mapping[str, Any]) -> bytes:
    """One JSON object as UTF-8.

    Raises:
        LocalProtocolError: a number is NaN or infinite, which JSON cannot express.
    """
    try:
        return json.dumps(fields, allow_nan=False, separators=(",", ":")).encode()
    except ValueError as error:
        raise LocalProtocolError(f"not JSON: {error}") from None


def decode(payload: bytes) -> dict[str, Any]:
    """Any bytes are one JSON object or a `RemoteProtocolError`.

    NaN and infinities, a key given twice and nesting beyond the interpreter's depth are not JSON
    here. A whole number is an int, however it is written: JSON has only one kind of number.
    """
    try:
        loaded = json.loads(
            decode_text(payload),
            parse_float=_number,
            parse_constant=_refuse_constant,
            object_pairs_hook=_object,
        )
    except (ValueError, RecursionError):
        raise RemoteProtocolError(Fault.INVALID_JSON, "metadata must be JSON, with each key once") from None
    if not isinstance(loaded, dict):
        raise RemoteProtocolError(Fault.INVALID_METADATA, "metadata must be one JSON object")
    return loaded


def decode_text(payload: bytes) -> str:
    """Any bytes are UTF-8 text or a `RemoteProtocolError`."""
    try:
        return payload.decode("utf-8")
    except UnicodeDecodeError:
        raise RemoteProtocolError(Fault.INVALID_UTF8, "text and metadata must be UTF-8") from None


def _number(text: str) -> float:
    number = float(text)
    return int(number) if number.is_integer() and abs(number) <= SAFE_INTEGER else number


def _refuse_constant(name: str) -> float:
    raise ValueError(name)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key is given twice")
    return fields
