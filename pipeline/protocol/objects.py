"""A frozen class and a JSON object say the same thing, field by field, or the reader names the field.

`snake_case` here is `camelCase` on the wire. An optional field (default None) that is None is
left out; a `null` received counts as left out; fields that are not known are passed over, so
that either end may learn new ones first. Types are strict otherwise: a bool is not a number,
and every number has its bounds in its type (`Annotated[int, Between(0, 9)]`), so that
neither infinities nor integers too long to be a float get through.
"""

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypeVar, get_args, get_origin

from pipeline.protocol.faults import Fault, LocalProtocolError, RemoteProtocolError

SAFE_INTEGER = (1 << 53) - 1  # beyond it JavaScript's numbers skip integers


class FrozenClass(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


T = TypeVar("T", bound=FrozenClass)


@dataclass(frozen=True, slots=True)
class Between:
    """Bounds of a number, both included."""

    low: float
    high: float


Natural = Annotated[int, Between(0, SAFE_INTEGER)]


class FieldError(Exception):
    """A field is missing, mistyped or out of range; `path` is its name on the wire."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path} {problem}")
        self.path = path
        self.problem = problem


def wire_name(field: str) -> str:
    """`retry_after_ms` is `retryAfterMs`."""
    head, *tail = field.split("_")
    return head + "".join(word.capitalize() for word in tail)


def spell(value: FrozenClass) -> dict[str, Any]:
    """The JSON object of a frozen class."""
    spelled: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        content = getattr(value, field.name)
        if content is None and field.default is None:
            continue
        nested = dataclasses.is_dataclass(content) and not isinstance(content, type)
        spelled[wire_name(field.name)] = spell(content) if nested else content
    return spelled


def read(cls: type[T], spelled: Mapping[str, Any], path: str) -> T:
    """Read `cls` from a JSON object.

    Raises:
        FieldError: the first field that is missing, mistyped or out of range, by its dotted path.
    """
    hints = _hints(cls)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        name = wire_name(field.name)
        at = f"{path}.{name}"
        hint, optional = _unwrap(hints[field.name])
        content = spelled.get(name)
        if content is not None:
            values[field.name] = _read_value(hint, content, at)
        elif optional:
            values[field.name] = None
        else:
            raise FieldError(at, "is missing")
    return cls(**values)


@functools.cache
def _hints(cls: Hashable) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


def _unwrap(hint: object) -> tuple[object, bool]:
    """A hint without its `| None`, and whether it had one."""
    if get_origin(hint) in (typing.Union, types.UnionType):
        (inner,) = (arm for arm in get_args(hint) if arm is not types.NoneType)
        return inner, True
    return hint, False


def _read_value(hint: object, content: object, at: str) -> object:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if not isinstance(content, dict):
            raise FieldError(at, "must be an object")
        return read(hint, content, at)
    if get_origin(hint) is Literal:
        if content not in get_args(hint):
            raise FieldError(at, f"must be one of {', '.join(get_args(hint))}")
        return content
    if get_origin(hint) is tuple:
        if not isinstance(content, list):
            raise FieldError(at, "must be a list")
        return tuple(_read_value(get_args(hint)[0], each, f"{at}[{i}]") for i, each in enumerate(content))
    if get_origin(hint) is Annotated:
        kind, bounds = get_args(hint)
        return _read_number(kind, bounds, content, at)
    if not isinstance(content, typing.cast("type", hint)):
        raise FieldError(at, f"must be {'true or false' if hint is bool else 'a string'}")
    return content


def _read_number(kind: type[int] | type[float], bounds: Between, content: object, at: str) -> float:
    wanted = "a whole number" if kind is int else "a number"
    if isinstance(content, bool) or not isinstance(content, int | float):
        raise FieldError(at, f"must be {wanted}")
    if not bounds.low <= content <= bounds.high:
        raise FieldError(at, f"must be {wanted} from {bounds.low:.16g} to {bounds.high:.16g}")
    if kind is int and content != int(content):
        raise FieldError(at, f"must be {wanted}")
    return kind(content)


def dump(spelled: Mapping[str, Any]) -> bytes:
    """One JSON object as UTF-8.

    Raises:
        LocalProtocolError: a number is NaN or infinite, which JSON cannot say.
    """
    try:
        return json.dumps(spelled, allow_nan=False, separators=(",", ":")).encode()
    except ValueError as error:
        raise LocalProtocolError(f"not JSON: {error}") from None


def load(payload: bytes) -> dict[str, Any]:
    """Any bytes are one JSON object or a `RemoteProtocolError`.

    NaN and infinities, a key given twice and nesting beyond the interpreter's depth are not JSON here.
    """
    try:
        loaded = json.loads(decode_text(payload), parse_constant=_no_constant, object_pairs_hook=_unique)
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


def _no_constant(name: str) -> float:
    raise ValueError(name)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise ValueError("a key is given twice")
    return unique
