"""Voice files: the published `.pt` files read without executing anything of them, and our own safetensors.

A `.pt` file is a ZIP archive with a pickle, `data.pkl`, that describes tensors, and one member for each
tensor's bytes. Unpickling can run any code, so the pickle is read by an unpickler that knows three names,
builds nothing but descriptions of tensors from them, and refuses all others. Sizes are checked before
anything is read, members must be stored without compression.

Source: PyTorch, `torch/serialization.py` and `torch/_weights_only_unpickler.py` (behaviour);
NVIDIA/personaplex, `LMGen.load_voice_prompt_embeddings` (contents).
"""

import hashlib
import io
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, NoReturn

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from pipeline.errors import VoiceError
from pipeline.system.inputs import parse_json, read_bytes
from pipeline.values import Voice

MAX_FILE_BYTES: Final = 64 * 2**20  # a published voice has 0.4 to 1.3 MB
_DIGEST: Final = "sha256"  # key in the metadata of a file of ours
_LENGTH_BYTES: Final = 8  # of a safetensors header's own length, before it
MAX_MEMBERS: Final = 64
MAX_PICKLE_BYTES: Final = 64 * 2**10
MAX_FRAMES: Final = 1000  # 80 s
# What PyTorch writes for tensors. Of others even the arguments could exhaust memory.
_OPCODES: Final = frozenset(
    {
        "PROTO", "MARK", "STOP", "EMPTY_DICT", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "NONE",
        "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "BINPUT", "LONG_BINPUT",
        "BINGET", "LONG_BINGET", "GLOBAL", "BINPERSID", "REDUCE", "SETITEM", "SETITEMS",
    }
)  # fmt: skip
_DTYPES: Final[Mapping[str, str]] = {"FloatStorage": "<f4", "BFloat16Storage": "<u2", "LongStorage": "<i8"}
_RING: Final = 4  # positions in the official code's token ring


@dataclass(frozen=True, slots=True)
class _Storage:
    name: str  # of its member
    kind: str  # a key of `_DTYPES`


@dataclass(frozen=True, slots=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Kind:
    """Stands for a storage class of PyTorch's."""

    name: str


def _describe_tensor(storage: object, offset: object, shape: object, strides: object, *_: object) -> _Tensor:
    """What a pickle names `torch._utils._rebuild_tensor_v2`: an entry of the description, no tensor."""
    whole = isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides)
    if not isinstance(storage, _Storage) or not whole:
        raise pickle.UnpicklingError("a tensor without storage or shape")
    numbers = (offset, *shape, *strides)  # type: ignore[misc]
    if not all(type(number) is int and 0 <= number < 2**40 for number in numbers):
        raise pickle.UnpicklingError("a tensor of impossible size")
    return _Tensor(storage, offset, shape, strides)  # type: ignore[arg-type]


class _DescriptionUnpickler(pickle.Unpickler):
    """Builds dictionaries of `_Tensor`s; every name but the three that such files need is refused."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - as in the standard library
        if module == "torch" and name in _DTYPES:
            return _Kind(name)
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _describe_tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise pickle.UnpicklingError(f"it names {module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:  # noqa: ANN401 - as in the standard library
        match pid:
            case ("storage", _Kind(kind), str(name), str(), int()):
                return _Storage(name, kind)
        raise pickle.UnpicklingError("it refers to something else than a tensor's storage")


def read_published_voice(path: Path) -> Voice:
    """A voice as NVIDIA publishes it.

    `embeddings [V − 1, 1, 1, D]` are the inputs of positions 0 to V − 2; `cache [1, 1 + n_q, 4]` is a ring of
    tokens by position modulo 4, of which positions V − 1 and V are needed.

    Raises:
        VoiceError: the file is damaged, has other contents, or names anything but tensors.
    """
    tensors = _read_tensors(path, frozenset({"embeddings", "cache"}))
    embeddings, cache = tensors["embeddings"], tensors["cache"]
    if embeddings.ndim != 4 or embeddings.shape[1:3] != (1, 1) or embeddings.dtype != np.float32:
        raise VoiceError(path.name, f"its embeddings have the shape {list(embeddings.shape)}")
    if cache.ndim != 3 or cache.shape[0] != 1 or cache.shape[2] != _RING or cache.dtype != np.int64:
        raise VoiceError(path.name, f"its cache has the shape {list(cache.shape)}")
    frames = len(embeddings) + 1
    tail = cache[0, :, [(frames - 1) % _RING, frames % _RING]].astype(np.int32)
    return checked(path.name, Voice(embeddings=embeddings[:, 0, 0].copy(), tail=tail))


def problem_of(error: Exception) -> str:
    """What is wrong, without the path that errors of the system have: clients are told of voices, too."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def checked(name: str, voice: Voice) -> Voice:
    """The voice, if its length and numbers are possible.

    Raises:
        VoiceError: they are not.
    """
    if not 1 < voice.frames <= MAX_FRAMES:
        raise VoiceError(name, f"it has {voice.frames} frames; 2 to {MAX_FRAMES} are allowed")
    if voice.embeddings is not None and not np.isfinite(voice.embeddings).all():
        raise VoiceError(name, "its embeddings are not finite")
    return voice


def write_voice(path: Path, voice: Voice) -> None:
    """Write a voice as safetensors: `codes`, or `embeddings` and `tail`, with the SHA-256 of them.

    Raises:
        OSError: the disk refuses it.
    """
    given = {"codes": voice.codes, "embeddings": voice.embeddings, "tail": voice.tail}
    arrays = {name: np.ascontiguousarray(each) for name, each in given.items() if each is not None}
    path.write_bytes(save(arrays, {_DIGEST: _digest(arrays)}))  # the library's own error would be no OSError


def _digest(arrays: Mapping[str, npt.NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(repr((name, arrays[name].shape, arrays[name].dtype.str)).encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def read_voice(path: Path) -> Voice:
    """Read what `write_voice` wrote. The file is not mapped: one that is cut short meanwhile is damaged.

    Raises:
        VoiceError: it is something else, or damaged.
    """
    try:
        content = read_bytes(path, MAX_FILE_BYTES)
        arrays = load(content)
        size = int.from_bytes(content[:_LENGTH_BYTES], "little")
        header = parse_json(content[_LENGTH_BYTES : _LENGTH_BYTES + size])
        expected = (header.get("__metadata__") or {}).get(_DIGEST)
    except (OSError, ValueError, KeyError, AttributeError, SafetensorError, TypeError) as error:
        raise VoiceError(path.name, f"it cannot be read ({problem_of(error)})") from None
    if expected is not None and expected != _digest(arrays):
        raise VoiceError(path.name, "it is damaged")
    codes, embeddings, tail = (arrays.get(name) for name in ("codes", "embeddings", "tail"))
    as_codes = codes is not None and codes.ndim == 2 and codes.dtype == np.int32
    as_embeddings = embeddings is not None and embeddings.ndim == 2 and embeddings.dtype == np.float32
    if as_codes == as_embeddings or (as_embeddings and (tail is None or tail.dtype != np.int32)):
        raise VoiceError(path.name, "it holds neither a voice's codes nor its embeddings")
    return checked(path.name, Voice(codes, embeddings, tail))


def _describe(content: bytes) -> object:
    """What a pickle describes.

    Raises:
        pickle.UnpicklingError: it has an opcode that tensors need not have.
    """
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name not in _OPCODES:
            raise pickle.UnpicklingError(f"it has the opcode {opcode.name}")
        if opcode.name == "LONG_BINPUT" and int(argument or 0) > len(
            content
        ):  # would allocate a table so large
            raise pickle.UnpicklingError("it remembers more than it says")
    return _DescriptionUnpickler(io.BytesIO(content)).load()


def _problem(members: Mapping[str, zipfile.ZipInfo], pickles: Sequence[str]) -> str | None:
    """What is wrong with the archive's members; nothing is read of them yet."""
    if len(pickles) != 1 or len(members) > MAX_MEMBERS:
        return "it is no PyTorch file of tensors"
    if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
        return "it is compressed"
    if members[pickles[0]].file_size > MAX_PICKLE_BYTES:
        return "its description is too large"
    return None


def _read_tensors(path: Path, names: frozenset[str]) -> dict[str, npt.NDArray[Any]]:
    """The tensors `names` of a `.pt` file that has no others; bfloat16 is widened to float32."""

    def refuse(problem: str) -> NoReturn:
        raise VoiceError(path.name, problem)

    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            refuse(f"it is larger than {MAX_FILE_BYTES} bytes")
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
            pickles = [name for name in members if PurePosixPath(name).name == "data.pkl"]
            problem = _problem(members, pickles)
            if problem is not None:
                refuse(problem)
            described = _describe(archive.read(pickles[0]))
            if not isinstance(described, dict) or not all(isinstance(t, _Tensor) for t in described.values()):
                refuse("it holds something else than tensors")
            if set(described) != names:
                refuse(
                    f"it holds {', '.join(sorted(map(str, described)))}, not {' and '.join(sorted(names))}"
                )
            folder = PurePosixPath(pickles[0]).parent / "data"
            return {name: _array(archive, folder, tensor) for name, tensor in described.items()}
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        refuse(f"it is no readable PyTorch file ({problem_of(error)})")
    except Exception as error:
        if isinstance(error, VoiceError):
            raise
        refuse(f"it is refused: {error}")


def _array(archive: zipfile.ZipFile, folder: PurePosixPath, tensor: _Tensor) -> npt.NDArray[Any]:
    """The tensor's own copy of its numbers; its strides stay within its storage."""
    data = np.frombuffer(archive.read(str(folder / tensor.storage.name)), _DTYPES[tensor.storage.kind])
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    if (
        0 in tensor.shape
        or tensor.offset + reach >= len(data)
        or np.prod(tensor.shape, dtype=float) > len(data)
    ):
        raise pickle.UnpicklingError("a tensor reaches beyond its storage")
    view = np.lib.stride_tricks.as_strided(
        data[tensor.offset :], tensor.shape, [stride * data.itemsize for stride in tensor.strides]
    )
    if tensor.storage.kind == "BFloat16Storage":
        return (view.astype(np.uint32) << 16).view(np.float32)
    return view.copy()
