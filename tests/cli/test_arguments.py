"""Numbers among the arguments of a command: out of range, or none at all, is a sentence before any work."""

import argparse
import re
from pathlib import Path

import pytest

from pipeline.cli.arguments import number, whole_number
from pipeline.cli.main import GROUPS, main

ROOT = Path(__file__).parents[2]
NUMBERS = [
    *(("loadtest", name) for name in ("--sessions", "--minutes", "--misbehaving", "--seed", "--ramp")),
    *(("loadtest", name) for name in ("--stall", "--fuzz", "--dialects", "--ticks", "--steps", "--replicas")),
    *(("bench", name) for name in ("--frames", "--steps", "--seconds", "--lanes")),
    *(("bench-tensor-parallel", name) for name in ("--ranks", "--steps", "--memory")),
    *(("capacity", name) for name in ("--sessions", "--lanes", "--price")),
    ("doctor", "--seconds"),
    ("offline", "--seed"),
]


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1e308", "9" * 30, "9" * 5000, "", "x"])
@pytest.mark.parametrize(("command", "name"), NUMBERS)
def test_a_number_that_is_none_is_a_sentence(
    capfd: pytest.CaptureFixture[str], command: str, name: str, value: str
) -> None:
    """It says which argument, and nothing is started."""
    with pytest.raises(SystemExit) as ended:
        main([command, f"{name}={value}"])
    assert ended.value.code == 2
    printed = capfd.readouterr().err
    assert name in printed
    assert "is not" in printed


def test_bounds_are_within() -> None:
    """Both may be given."""
    assert [whole_number(2, 3)(text) for text in ("2", "3")] == [2, 3]
    assert [number(0, 1)(text) for text in ("0", "1e0")] == [0, 1]
    for outside in ("1", "4"):
        with pytest.raises(argparse.ArgumentTypeError, match="between 2 and 3"):
            whole_number(2, 3)(outside)


def test_every_number_has_bounds() -> None:
    """A new argument, too; one with choices has those."""
    for name in (name for commands in GROUPS.values() for name in commands):
        path = ROOT / "pipeline/cli" / f"{name.replace('-', '_')}.py"
        source = path.read_text() if path.exists() else ""
        unbounded = re.findall(r"(\"--[a-z-]+\")[^()]*type=(?:int|float),(?!\s*choices)", source)
        assert [each for each in unbounded if path.stem != "talk"] == [], path  # which checks its own
