"""Where the milliseconds of encode, step and decode go: Python, products, convolutions, curves, norms.

Each call is looked at three times. As a stage makes it. Without its evaluation: that is Python,
which lays the operations out, and their number. And layer by layer, each evaluated by itself:
that tells kinds of work apart, and costs a synchronisation a layer. What is no such layer,
rotation, gating and drawing above all, is in the whole alone; so is writing to the rings, which
a whole call does in place and a call in pieces on a copy.
"""

import contextlib
import io
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any, Final

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from pipeline.models.evaluation import settle
from pipeline.models.layers.attention import AttentionPlan
from pipeline.models.layers.conv import CausalConv1d, ConvTranspose1d, Downsample, Upsample
from pipeline.models.layers.embedding import Embedding, Hearing
from pipeline.models.layers.fused_linear import Products
from pipeline.models.layers.linear import Linear
from pipeline.models.layers.norms import LayerNorm, RmsNorm
from pipeline.models.quantizer import SplitQuantizer
from pipeline.models.sampling import SamplingBatch
from pipeline.models.seanet import Elu
from pipeline.stages.chain import Chain
from pipeline.units import FRAME_SAMPLES
from pipeline.values import Sampling

KINDS: Final[dict[type, str]] = {
    Linear: "products",
    Products: "products",
    CausalConv1d: "convolutions",
    ConvTranspose1d: "convolutions",
    Downsample: "convolutions",
    Upsample: "convolutions",
    Elu: "curves",
    AttentionPlan: "attention",
    LayerNorm: "norms",
    RmsNorm: "norms",
    Embedding: "embeddings",
    Hearing: "embeddings",
    SplitQuantizer: "quantizer",
}
_CALLED: Final = ("__call__", "encode", "decode", "of_drawn", "attend")
WARM_FRAMES: Final = 20
_PRIMITIVE: Final = re.compile(r'\[label ="(\w+)"')

Call = Callable[[list[mx.array]], list[mx.array]]  # marks to add to, as a stage has them → results


class Stopwatch:
    """Seconds spent in layers of each kind while `running`; a layer within a layer counts as the outer."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._inside = False

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Evaluate before and after every layer of a kind; afterwards all is as it was."""
        with contextlib.ExitStack() as stack:
            for layer in KINDS:
                stack.enter_context(self._timed(layer))
            yield

    @contextlib.contextmanager
    def _timed(self, layer: type) -> Iterator[None]:
        names = [name for name in _CALLED if name in vars(layer)]
        originals = {name: vars(layer)[name] for name in names}
        for name, original in originals.items():
            setattr(layer, name, self._measured(original, KINDS[layer]))
        try:
            yield
        finally:
            for name, original in originals.items():
                setattr(layer, name, original)

    def _measured(self, original: Callable[..., Any], kind: str) -> Callable[..., Any]:
        def measured(layer: object, *arguments: Any) -> Any:  # noqa: ANN401 - whatever the layer takes and gives
            if self._inside:
                return original(layer, *arguments)
            mx.eval(*_arrays(arguments))
            self._inside, began_s = True, time.perf_counter()
            try:
                result = original(layer, *arguments)
                mx.eval(*_arrays([result]))
            finally:
                self._inside = False
            self.seconds[kind] += time.perf_counter() - began_s
            return result

        return measured


def _arrays(values: object) -> list[mx.array]:
    leaves = tree_flatten(values)
    assert isinstance(leaves, list)
    return [leaf for _, leaf in leaves if isinstance(leaf, mx.array)]


def calls(chain: Chain, width: int) -> dict[str, Call]:
    """Encode, step and decode of `width` lanes, each with a state of its own; nothing is evaluated."""
    mimi, lm = chain.bundle.load_mimi(), chain.bundle.load_lm()
    rows = np.arange(width, dtype=np.int32)
    generator = np.random.Generator(np.random.PCG64(3))
    pcm = (0.1 * generator.standard_normal((width, 1, FRAME_SAMPLES))).astype(np.float32)
    c = lm.config
    audio = generator.integers(0, c.card, (width, c.n_q, 1), np.int32)
    text = generator.integers(0, c.text_card, (width, 1), np.int32)
    batch = SamplingBatch.of([Sampling(seed=1)] * width, [0] * width, [()] * width, c.dep_q, width)
    hearing, speaking, thinking = mimi.encoder_state(width), mimi.decoder_state(width), lm.state(width)

    def encode(marks: list[mx.array]) -> list[mx.array]:
        nonlocal hearing
        codes, hearing = mimi.encode(mx.array(pcm), hearing, rows, marks)
        return [codes, *_arrays(hearing)]

    def step(marks: list[mx.array]) -> list[mx.array]:
        nonlocal thinking
        said, codes, thinking = lm.step(text, audio, thinking, rows, batch, marks=marks)
        return [said, codes, *_arrays(thinking)]

    def decode(marks: list[mx.array]) -> list[mx.array]:
        nonlocal speaking
        sound, speaking = mimi.decode(mx.array(audio[:, : c.dep_q]), speaking, rows, marks)
        return [sound, *_arrays(speaking)]

    return {"encode": encode, "step": step, "decode": decode}


def profile(call: Call, frames: int) -> dict[str, Any]:
    """Milliseconds of one call, by what they are for, and its operations by name, over `frames`.

    whole: as it is. python: what lays the operations out. apart: each kind of layer by itself.
    """
    for _ in range(WARM_FRAMES):
        mx.eval(*call([]))
    whole, python = np.empty(frames), np.empty(frames)
    for frame in range(frames):
        marks: list[mx.array] = []
        began_s = time.perf_counter()
        results = call(marks)
        python[frame] = time.perf_counter() - began_s
        settle("profile", *results, marks=marks)
        whole[frame] = time.perf_counter() - began_s
    results = call([])
    drawn = io.StringIO()
    mx.export_to_dot(drawn, *results)
    mx.eval(*results)
    operations = Counter(_PRIMITIVE.findall(drawn.getvalue()))
    watch = Stopwatch()
    with watch.running():
        for _ in range(frames):
            mx.eval(*call([]))
    return {
        "whole_ms": round(1000 * float(np.median(whole)), 2),
        "python_ms": round(1000 * float(np.median(python)), 2),
        "operations": operations.total(),
        "most_frequent": dict(operations.most_common(8)),
        "apart_ms": {
            kind: round(1000 * seconds / frames, 2) for kind, seconds in sorted(watch.seconds.items())
        },
    }


def measure_profile(chain: Chain, frames: int, width: int) -> dict[str, Any]:
    """The profile of each stage with `width` lanes."""
    return {name: profile(call, frames) for name, call in calls(chain, width).items()}
