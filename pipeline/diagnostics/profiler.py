"""Profiles encode, step and decode: milliseconds in Python and in each kind of layer, and operation counts.

Each call is measured in three ways: as a stage makes it; without its evaluation, which is the
time that Python takes to build the graph, and the number of operations in it; and layer by
layer, each evaluated by itself, which separates the kinds of layers at the price of one
synchronisation per layer. What is not one of these layers, mostly rotary embedding, gating and
sampling, appears in the whole only; so does writing to the rings, which a whole call does in
place and a call layer by layer on a copy.

Layers have no hook for this, because a check in each of a thousand calls per step would cost all
sessions something: `Stopwatch` replaces their methods while it runs, and restores them.
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

from pipeline.models.evaluation import EvalSchedule, evaluate
from pipeline.models.layers.attention import AttentionMetadata
from pipeline.models.layers.conv import CausalConv1d, ConvDownsample1d, ConvTranspose1d, ConvTrUpsample1d
from pipeline.models.layers.embedding import Embedding, FusedEmbedding
from pipeline.models.layers.fused_linear import FusedLinear
from pipeline.models.layers.linear import Linear
from pipeline.models.layers.norms import LayerNorm, RmsNorm
from pipeline.models.native import (
    DepformerKernel,
    EmbeddingKernel,
    LinearKernel,
    QuantizerKernel,
    SeanetKernel,
    TransformerKernel,
)
from pipeline.models.quantizer import SplitResidualVectorQuantizer
from pipeline.models.sampling import SamplingBatch
from pipeline.models.seanet import Elu
from pipeline.stages.model_stages import ModelStages
from pipeline.units import FRAME_SAMPLES
from pipeline.values import SamplingParams

KINDS: Final[dict[type, str]] = {
    Linear: "products",
    FusedLinear: "products",
    CausalConv1d: "convolutions",
    ConvTranspose1d: "convolutions",
    ConvDownsample1d: "convolutions",
    ConvTrUpsample1d: "convolutions",
    Elu: "curves",
    AttentionMetadata: "attention",
    LayerNorm: "norms",
    RmsNorm: "norms",
    Embedding: "embeddings",
    FusedEmbedding: "embeddings",
    LinearKernel: "products",
    TransformerKernel: "transformer",
    DepformerKernel: "depformer",
    SeanetKernel: "convolutions",
    QuantizerKernel: "quantizer",
    EmbeddingKernel: "embeddings",
    SplitResidualVectorQuantizer: "quantizer",
}
_CALLED: Final = ("__call__", "encode", "decode", "embed_sampled", "attend", "sample")
WARM_FRAMES: Final = 20
_PRIMITIVE: Final = re.compile(r'\[label ="(\w+)"')

Call = Callable[[EvalSchedule], list[mx.array]]  # returns the results and the new state, not evaluated


class Stopwatch:
    """Seconds in layers of each kind while `running`; a layer inside another counts as the outer one."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._inside = False

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Evaluate and time every call of these layers; afterwards their methods are restored."""
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
        def measured(layer: object, *arguments: Any) -> Any:  # noqa: ANN401 - any layer's arguments and result
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


def calls(stages: ModelStages, width: int) -> dict[str, Call]:
    """Encode, step and decode of `width` lanes, each with its own state; nothing is evaluated."""
    mimi, lm = stages.bundle.load_mimi(), stages.bundle.load_lm()
    rows = np.arange(width, dtype=np.int32)
    generator = np.random.Generator(np.random.PCG64(3))
    pcm = (0.1 * generator.standard_normal((width, 1, FRAME_SAMPLES))).astype(np.float32)
    c = lm.config
    audio = generator.integers(0, c.card, (width, c.n_q, 1), np.int32)
    text = generator.integers(0, c.text_card, (width, 1), np.int32)
    batch = SamplingBatch.of([SamplingParams(seed=1)] * width, [0] * width, [()] * width, c.dep_q, width)
    encoder_state, decoder_state, lm_state = (
        mimi.encoder_state(width),
        mimi.decoder_state(width),
        lm.state(width),
    )

    def encode(schedule: EvalSchedule) -> list[mx.array]:
        nonlocal encoder_state
        codes, encoder_state = mimi.encode(mx.array(pcm), encoder_state, rows, schedule)
        return [codes, *_arrays(encoder_state)]

    def step(schedule: EvalSchedule) -> list[mx.array]:
        nonlocal lm_state
        token, codes, lm_state = lm.step(text, audio, lm_state, rows, batch, schedule=schedule)
        return [token, codes, *_arrays(lm_state)]

    def decode(schedule: EvalSchedule) -> list[mx.array]:
        nonlocal decoder_state
        sound, decoder_state = mimi.decode(mx.array(audio[:, : c.dep_q]), decoder_state, rows, schedule)
        return [sound, *_arrays(decoder_state)]

    return {"encode": encode, "step": step, "decode": decode}


def profile(call: Call, frames: int) -> dict[str, Any]:
    """Milliseconds of one call, over `frames` calls, and its operations by name.

    whole: as a stage makes it. python: building the graph. apart: each kind of layer by itself.
    """
    for _ in range(WARM_FRAMES):
        mx.eval(*call(EvalSchedule()))
    whole, python = np.empty(frames), np.empty(frames)
    for frame in range(frames):
        schedule = EvalSchedule()
        began_s = time.perf_counter()
        results = call(schedule)
        python[frame] = time.perf_counter() - began_s
        evaluate("profile", *results, schedule=schedule)
        whole[frame] = time.perf_counter() - began_s
    results = call(EvalSchedule())
    graph = io.StringIO()
    mx.export_to_dot(graph, *results)
    mx.eval(*results)
    operations = Counter(_PRIMITIVE.findall(graph.getvalue()))
    watch = Stopwatch()
    with watch.running():
        for _ in range(frames):
            mx.eval(*call(EvalSchedule()))
    return {
        "whole_ms": round(1000 * float(np.median(whole)), 2),
        "python_ms": round(1000 * float(np.median(python)), 2),
        "operations": operations.total(),
        "most_frequent": dict(operations.most_common(8)),
        "apart_ms": {
            kind: round(1000 * seconds / frames, 2) for kind, seconds in sorted(watch.seconds.items())
        },
    }


def measure_profile(stages: ModelStages, frames: int, width: int) -> dict[str, Any]:
    """The profile of each stage with `width` lanes."""
    return {name: profile(call, frames) for name, call in calls(stages, width).items()}
