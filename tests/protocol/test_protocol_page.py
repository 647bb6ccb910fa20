"""docs/reference/protocol.md is enough to write a client from: what it names is what the code does."""

import json
import re
from pathlib import Path
from typing import get_args

import pytest
from msgspec.structs import fields

from pipeline.protocol import metadata
from pipeline.protocol.close_reason import CloseReason
from pipeline.protocol.faults import Fault, RefusedCode
from pipeline.protocol.objects import WireObject
from pipeline.protocol.packets import MESSAGE_BYTES, PAYLOAD_BYTES, PacketType, decode
from pipeline.protocol.phases import Phase
from pipeline.protocol.unacked import UNACKED_PACKETS_MAX

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reference/protocol.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
VECTORS = json.loads((ROOT / "tests/data/packets.json").read_text(encoding="utf-8"))["packets"]


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_of_metadata_is_valid(example):
    """No field of an example is lost: encoded again, it is the same object."""
    example_fields = json.loads(example)
    sender = next(role for role, known in metadata.VOCABULARY.items() if example_fields["type"] in known)
    assert json.loads(metadata.encode(metadata.decode(example.encode(), sender))) == example_fields


def test_every_type_of_metadata_has_an_example_and_a_row():
    """No type of the vocabulary is missing from the page."""
    known = {name for types in metadata.VOCABULARY.values() for name in types}
    assert {json.loads(example)["type"] for example in EXAMPLES} == known
    assert known == set(re.findall(r"^\| `(\w+)` \| [\w ]*\|", PAGE, re.MULTILINE)) & known


def test_every_field_has_its_row():
    """Each field's wire name stands in the second column, nested ones by their path."""
    named = {
        name.strip()
        for cell in re.findall(r"^\|[^|]*\|([^|]*)\|", PAGE, re.MULTILINE)
        for name in cell.split(",")
    }
    for types in metadata.VOCABULARY.values():
        for cls in types.values():
            for field in fields(cls):
                arms = get_args(field.type) or (field.type,)
                nested = [arm for arm in arms if isinstance(arm, type) and issubclass(arm, WireObject)]
                inner = [f".{each.encode_name}" for arm in nested for each in fields(arm)] or [""]
                assert {field.encode_name + tail for tail in inner} <= named


def test_every_fault_refusal_phase_and_close_reason_is_named():
    """Every code that a client may receive is on the page."""
    rows = set(re.findall(r"^\|[^|]*\| `(\w+)` \|", PAGE, re.MULTILINE))
    assert {fault.value for fault in Fault} <= rows
    assert set(get_args(RefusedCode)) <= rows
    closes = set(re.findall(r"^\| \d{4} \| (\w+) \|", PAGE, re.MULTILINE))
    assert closes == {reason.name for reason in CloseReason}
    for phase in Phase:
        assert f"| {phase.name} |" in PAGE


def test_the_packet_types_have_their_numbers():
    """The table of types is the enumeration."""
    table = re.findall(r"^\| `0x(\w\w)` \| (\w+) \|", PAGE, re.MULTILINE)
    assert {name: int(number, 16) for number, name in table} == {kind.name: kind.value for kind in PacketType}


def test_the_bounds_on_the_page_are_the_bounds_in_the_code():
    """Sizes are named with their digits grouped."""
    for bound in (MESSAGE_BYTES, PAYLOAD_BYTES, UNACKED_PACKETS_MAX):
        assert f"{bound:,}" in PAGE


def test_the_worked_bytes_are_vectors():
    """Every message in hex is one of the committed vectors; so is the one that is taken apart."""
    messages = re.findall(r"`((?:[0-9a-f]{2}){17,})`", PAGE)
    assert len(messages) == 5
    known = {vector["hex"] for vector in VECTORS}
    assert set(messages) <= known
    (apart,) = re.findall(r"```\n(21 .*?)```", PAGE, re.DOTALL)
    together = "".join(
        re.match(r"((?:[0-9a-f]{2} ?)+)", line)[1].replace(" ", "") for line in apart.splitlines()
    )
    assert together in messages
    assert decode(bytes.fromhex(together)).payload == b"Good morning."
