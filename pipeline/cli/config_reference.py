"""`python -m pipeline config-reference`: every key of the `pipeline` section, as the types say it.

Prints the tables of docs/reference/configuration.md, one for each section: key, what it may be, default, and its
effect, which is what the docstring says.
`--write PAGE` puts them into a page, between two marks; what is written by hand around them stays.
Exit codes: 0, 2 usage, or a page without marks.
"""

import argparse
import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec.inspect import (
    BoolType,
    FloatType,
    IntType,
    LiteralType,
    NoneType,
    StrType,
    StructType,
    Type,
    UnionType,
    VarTupleType,
    type_info,
)

from pipeline.cli.program_name import program
from pipeline.config import Section, Settings
from pipeline.errors import ConfigError

BEGIN: Final = "<!-- made by python -m pipeline config-reference: begin -->"
END: Final = "<!-- made by python -m pipeline config-reference: end -->"
_UNITS: Final = {"_ms": "milliseconds", "_s": "seconds", "_bytes": "bytes"}
_DESCRIBED: Final = re.compile(r"([a-z_]+(?:, [a-z_]+)*): (.+)")


def tables() -> str:
    """All of them, as Markdown."""
    parts, whole = [], []
    settings = Settings()
    for name, kind in _fields(Settings):
        if isinstance(kind, StructType):
            section = getattr(settings, name)
            parts += [f"### `{name}`", _summary(kind.cls), _table(section, f"{name}.")]
        else:
            whole.append(name)
    if whole:
        parts += ["### Of the whole", _table(settings, "", only=whole)]
    return "\n\n".join(parts) + "\n"


def _table(section: Section, prefix: str, only: Sequence[str] | None = None) -> str:
    told = _effects(type(section))
    rows = ["| key | value | default | effect |", "|---|---|---|---|"]
    for name, kind in _fields(type(section)):
        if only is None or name in only:
            default = msgspec.json.format(msgspec.json.encode(getattr(section, name)), indent=0).decode()
            cells = (f"`{prefix}{name}`", _value(name, kind), f"`{default}`", told[name])
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def _fields(section: type[Section]) -> Iterator[tuple[str, Type]]:
    about = type_info(section)
    assert isinstance(about, StructType)
    for field in about.fields:
        yield field.name, field.type


def _value(name: str, kind: Type) -> str:
    """What may stand there, and in what unit."""
    unit = next((unit for suffix, unit in _UNITS.items() if name.endswith(suffix)), None)
    return ", ".join(filter(None, (_words(kind), unit)))


def _words(kind: Type) -> str:
    match kind:
        case UnionType(types):
            words = " or ".join(_words(each) for each in types if not isinstance(each, NoneType))
        case LiteralType(values):
            words = " or ".join(f"`{value}`" for value in values)
        case IntType(gt=gt, ge=ge, lt=lt, le=le):
            words = "whole number" + _range(gt, ge, lt, le)
        case FloatType(gt=gt, ge=ge, lt=lt, le=le):
            words = "number" + _range(gt, ge, lt, le)
        case StrType(pattern=pattern, min_length=least, max_length=most):
            words = "text" if pattern is None else f"text like `{pattern}`"
            words += "" if most is None else f" of {least or 0} to {most} characters"
        case BoolType():
            words = "`true` or `false`"
        case VarTupleType(item_type, max_length=most):
            words = "list" if most is None else f"list of at most {most}"
            words += f": {_words(item_type)}"
        case _:
            raise TypeError(f"no words for {kind}")
    return words


def _range(gt: float | None, ge: float | None, lt: float | None, le: float | None) -> str:
    if ge is not None and le is not None:
        return f" {_spelt(ge)} to {_spelt(le)}"
    signs = ((">", gt), ("≥", ge), ("<", lt), ("≤", le))
    return "".join(f" {sign} {_spelt(bound)}" for sign, bound in signs if bound is not None)


def _spelt(bound: float) -> str:
    return str(int(bound) if bound == int(bound) else bound)


def _summary(section: type) -> str:
    return _document(section).partition("\n")[0]


def _effects(section: type) -> Mapping[str, str]:
    """By name, what the docstring says of each key: `name, name: …`, continued where indented."""
    told: dict[str, str] = {}
    names: list[str] = []
    for line in _document(section).splitlines():
        if (match := _DESCRIBED.fullmatch(line)) is not None:
            names = match[1].split(", ")
            told |= dict.fromkeys(names, match[2])
        elif line.startswith(" "):
            told |= {name: f"{told[name]} {line.strip()}" for name in names}
    return {name: text.removesuffix(".") for name, text in told.items()}


def _document(section: type) -> str:
    return inspect.cleandoc(section.__doc__ or "")


def with_tables(page: str) -> str:
    """The page with the tables as they are now.

    Raises:
        ConfigError: it has not the two marks, in their order.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError("--write", f"the page has not the marks {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{tables()}\n{END}{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = argparse.ArgumentParser(prog=program("config-reference"), description=__doc__)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into this page")
    page: Path | None = parser.parse_args(arguments).write
    if page is None:
        sys.stdout.write(tables())
        return 0
    try:
        page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")
    except OSError as error:
        raise ConfigError(str(page), f"cannot be rewritten ({error.strerror})") from None
    return 0
