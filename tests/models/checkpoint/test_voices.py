"""Voice files are read as descriptions of tensors, whatever they contain; nothing of a pickle is executed."""

import contextlib
import io
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from pipeline.errors import VoiceError
from pipeline.models.checkpoint.voices import MAX_FRAMES, read_published_voice, read_voice, write_voice
from pipeline.values import Voice

FOLDER = Path(__file__).parents[2] / "data" / "families" / "personaplex_prompts"
PUBLISHED = FOLDER / "voice.pt"


class Executed:
    """A pickle that would create `path` if it were executed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def members() -> dict[str, bytes]:
    with zipfile.ZipFile(PUBLISHED) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def repacked(path: Path, changed: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in (members() | changed).items():
            archive.writestr(name, data)
    return path


def test_a_published_voice_has_its_embeddings_and_the_tokens_that_follow():
    """As many rows as the file describes, widened from bfloat16, and the last frame's tokens."""
    with np.load(FOLDER / "prompts.npz") as golden:
        codes = golden["voice"]
    voice = read_published_voice(PUBLISHED)
    assert voice.frames == len(codes)
    assert voice.embeddings is not None
    assert voice.embeddings.dtype == np.float32
    assert voice.embeddings.shape == (len(codes) - 1, 16)
    assert voice.tail is not None
    assert voice.tail[0, 1] == codes[-1, 0]
    assert voice.tail[1, 2:9].tolist() == codes[-1, 1:].tolist()


def test_a_converted_voice_is_the_same_voice(tmp_path):
    """Both kinds survive writing and reading bit for bit."""
    for voice in (read_published_voice(PUBLISHED), Voice(codes=np.arange(24, dtype=np.int32).reshape(3, 8))):
        write_voice(tmp_path / "v.safetensors", voice)
        again = read_voice(tmp_path / "v.safetensors")
        for name in ("codes", "embeddings", "tail"):
            np.testing.assert_array_equal(getattr(again, name), getattr(voice, name))


@pytest.mark.parametrize("wrapped", [False, True])
def test_nothing_of_a_hostile_pickle_is_executed(tmp_path, wrapped):
    """Neither at the top nor where a tensor should stand; the error names what was refused."""
    bomb = Executed(tmp_path / "executed")
    description = pickle.dumps({"embeddings": bomb, "cache": bomb} if wrapped else bomb, protocol=2)
    [name] = [name for name in members() if name.endswith("data.pkl")]
    with pytest.raises(VoiceError, match=r"names (posix|nt|os)\.mkdir"):
        read_published_voice(repacked(tmp_path / "v.pt", {name: description}))
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "description",
    [
        pickle.dumps({"embeddings": 1, "cache": 2}),
        pickle.dumps([1, 2]),
        b"",
        b"\x80\x02}.",
        b"\x80\x02" + b"(" * 1000,
        b"\x80\x02ccollections\nOrderedDict\n.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
        b"\x80\x02ctorch\nFloatStorage\n.",
        b"\x80\x02X\x04\x00\x00\x00abcdQ.",
        b"\x00" * (64 * 2**10 + 1),
    ],
)
def test_a_description_of_anything_else_is_refused(tmp_path, description):
    """With the file's name in one sentence."""
    [name] = [name for name in members() if name.endswith("data.pkl")]
    with pytest.raises(VoiceError, match=r"v\.pt"):
        read_published_voice(repacked(tmp_path / "v.pt", {name: description}))


def test_other_files_are_refused(tmp_path):
    """No ZIP, a compressed one, one without tensors, none at all."""
    (tmp_path / "text.pt").write_text("hello")
    repacked(tmp_path / "compressed.pt", {}, zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(tmp_path / "empty.pt", "w"):
        pass
    for name in ("text.pt", "compressed.pt", "empty.pt", "missing.pt"):
        with pytest.raises(VoiceError, match=name.replace(".", r"\.")):
            read_published_voice(tmp_path / name)


def test_a_tensor_cannot_reach_beyond_its_bytes(tmp_path):
    """A member that is shorter than its description, as in a file cut off."""
    names = [name for name in members() if "/data/" in name]
    for name in names:
        with pytest.raises(VoiceError, match="beyond its storage"):
            read_published_voice(repacked(tmp_path / "v.pt", {name: members()[name][:8]}))


@given(data=st.data())
def test_a_damaged_file_is_a_voice_or_an_error(tmp_path_factory, data):
    """Whatever bytes are changed: never another exception."""
    raw = bytearray(PUBLISHED.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "v.pt"
    path.write_bytes(raw)
    with contextlib.suppress(VoiceError):
        assert read_published_voice(path).frames > 1


def test_a_voice_has_a_possible_length(tmp_path):
    """One frame is lost at the beginning; more than a minute is a mistake."""
    for frames in (0, 1, MAX_FRAMES + 1):
        write_voice(tmp_path / "v.safetensors", Voice(codes=np.zeros((frames, 8), np.int32)))
        with pytest.raises(VoiceError, match="frames"):
            read_voice(tmp_path / "v.safetensors")


def test_a_converted_voice_that_is_none_is_refused(tmp_path):
    """Another safetensors file, or one that is damaged."""
    (tmp_path / "v.safetensors").write_bytes(io.BytesIO(b"nonsense").getvalue())
    with pytest.raises(VoiceError, match="cannot be read"):
        read_voice(tmp_path / "v.safetensors")
    with pytest.raises(VoiceError, match=r"model\.safetensors"):  # bfloat16, which NumPy may or may not know
        read_voice(FOLDER / "model.safetensors")
    save_file({"codes": np.zeros((3, 8), np.float32)}, tmp_path / "v.safetensors")
    with pytest.raises(VoiceError, match="neither"):
        read_voice(tmp_path / "v.safetensors")


@pytest.mark.parametrize("opcode", [b"\x8e", b"\x8d", b"c", b"\x93", b"\x81"])
def test_an_opcode_that_tensors_do_not_need_is_refused(tmp_path, opcode):
    """Before its argument is read: a length of 2^60 bytes, say."""
    [name] = [name for name in members() if name.endswith("data.pkl")]
    content = b"\x80\x02" + opcode + b"\xff" * 7 + b"\x0f" + b"."
    with pytest.raises(VoiceError):
        read_published_voice(repacked(tmp_path / "v.pt", {name: content}))


def test_a_memo_that_would_fill_the_memory_is_refused(tmp_path):
    """An index of four thousand million, in a file of ten bytes."""
    [name] = [name for name in members() if name.endswith("data.pkl")]
    with pytest.raises(VoiceError, match="remembers"):
        read_published_voice(repacked(tmp_path / "v.pt", {name: b"\x80\x02}r\xff\xff\xff\xff."}))


_READ = """
import sys
from pathlib import Path

from pipeline.errors import VoiceError
from pipeline.models.checkpoint.voices import read_voice

print("begins", flush=True)
for _ in range(300):
    try:
        read_voice(Path(sys.argv[1]))
    except VoiceError:
        pass
"""


def test_a_voice_may_be_cut_short_while_it_is_read(tmp_path):
    """It is damaged then, which is one sentence; a file that is mapped would end the process."""
    path = tmp_path / "anna.safetensors"
    write_voice(path, Voice(codes=np.zeros((1000, 8), np.int32)))
    content = path.read_bytes()
    with subprocess.Popen([sys.executable, "-c", _READ, str(path)], stdout=subprocess.PIPE) as reading:
        assert reading.stdout is not None
        reading.stdout.readline()
        while reading.poll() is None:
            path.write_bytes(content)
            os.truncate(path, 100)
    assert reading.returncode == 0
