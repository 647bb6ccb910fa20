"""Which parts of the models run as native kernels: the only place that connects the two.

`attach_lm` and `attach_mimi` give layers a `kernel`, once their weights are loaded; a layer that has one
calls it instead of its own MLX code, which stays the definition of what is computed. Without `attach_…`
nothing changes. A kernel reads the weights where MLX keeps them, as the checkpoint stores them. The C++
code and its building: `pipeline.kernels`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from mlx import nn

from pipeline.kernels.library import Library
from pipeline.models.checkpoint.loading import COPIES, changed_meanwhile
from pipeline.models.checkpoint.safetensors_header import read_header
from pipeline.models.layers.attention import Lanes, ring_slots
from pipeline.models.layers.conv import CausalConv1d, ConvDownsample1d, ConvState, ConvTranspose1d
from pipeline.models.layers.conv import Kernel as ConvKernel
from pipeline.models.layers.embedding import Embedding
from pipeline.models.layers.linear import Linear
from pipeline.models.layers.norms import LayerNorm, RmsNorm
from pipeline.models.layers.quantized import QuantizedLinear
from pipeline.models.layers.transformer import (
    RingKVCache,
    Transformer,
    TransformerConfig,
    TransformerLayer,
    apply_sinusoid,
)
from pipeline.models.lm import LmModel
from pipeline.models.mimi import Mimi
from pipeline.models.quantizer import ResidualVectorQuantizer, SplitResidualVectorQuantizer
from pipeline.models.sampling import SamplingBatch
from pipeline.models.seanet import Convolutions, convolutions
from pipeline.system.inputs import named_in_utf8

Matrix = Any  # of the native library, as are the other classes that it makes
# Beyond so many positions MLX's wide products are as fast, and a prompt's are computed in one piece.
_MOST_ROWS: Final = 64
_MAPPED: Final = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16, "U32": mx.uint32}


def matrix(library: Library, layer: nn.Module) -> Matrix:
    """The weight of a linear layer or of an embedding table, as kernels take it; nothing is copied."""
    if "scales" in layer:
        parts = [library.native.contiguous(part) for part in (layer.weight, layer.scales, layer.biases)]
        mx.eval(parts)
        return library.native.Matrix(*parts, layer.bits, layer.group)
    return _matrix(library, layer.weight)


def _matrix(library: Library, weight: mx.array) -> Matrix:
    weight = library.native.contiguous(weight)
    mx.eval(weight)
    return library.native.Matrix(weight)


def _floats(values: mx.array) -> mx.array:
    """Parameters other than matrices, in float32."""
    full = mx.contiguous(values.astype(mx.float32))
    mx.eval(full)
    return full


class MappedReader:
    """Reads no tensor, but maps its file into memory, which several processes share.

    A server that starts while another has the file in memory copies nothing. Like any program that maps its
    files it relies on them: a file is to be replaced, never written to, while it is in use.
    """

    def __init__(self, library: Library) -> None:
        self._native = library.native

    def open(self, path: Path) -> dict[str, mx.array]:
        """All tensors of a checkpoint; what is not a whole number of its words into a file is read."""
        tensors = COPIES.open(path)
        mappings: dict[Path, Any] = {}
        for name, header in read_header(path).items():
            dtype = _MAPPED.get(header.dtype)
            if dtype is None or header.offset % dtype.size or not header.size_bytes:
                continue
            if header.file not in mappings:
                try:
                    with named_in_utf8(header.file) as file_name:
                        mappings[header.file] = self._native.Mapping(file_name)
                except RuntimeError:  # a file system that has no mappings
                    return tensors
            kind = str(dtype).rpartition(".")[2]
            try:
                tensors[name] = mappings[header.file].tensor(header.offset, list(header.shape), kind)
            except ValueError:  # it was whole when `COPIES` opened it
                raise changed_meanwhile(header.file) from None
        return tensors

    def contiguous(self, tensor: mx.array) -> mx.array:
        """The tensor itself, unless its rows are not beside each other."""
        rows: mx.array = self._native.contiguous(tensor)
        return rows


class LinearKernel:
    """A linear layer: `[..., in]` → `[..., out]`."""

    def __init__(self, library: Library, layer: nn.Module) -> None:
        self.matrix = matrix(library, layer)
        self.bias = _floats(layer.bias) if "bias" in layer else None
        self._linear = library.native.linear

    def __call__(self, x: mx.array) -> mx.array:
        """Any number of rows; the weight is read once for each block of rows."""
        rows = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
        y: mx.array = self._linear(rows, self.matrix, self.bias)
        return y if x.ndim == 2 else y.reshape(*x.shape[:-1], -1)


class EmbeddingKernel:
    """The sum of one row of each table; it stands in for a `FusedEmbedding`."""

    def __init__(self, library: Library, tables: Sequence[Embedding]) -> None:
        self._tables = [matrix(library, table) for table in tables]
        self._embed = library.native.embed

    def __call__(self, tokens: npt.NDArray[np.int32]) -> mx.array:
        """`[w, tables, T]` on the host, −1 for no input → `[w, T, D]`."""
        return self.embed_arrays(mx.array(tokens))

    def embed_arrays(self, tokens: mx.array) -> mx.array:
        """The same for tokens on the device."""
        vectors: mx.array = self._embed(self._tables, tokens)
        return vectors


class TransformerKernel:
    """All layers of a transformer in one operation, over the rings of a `RingKVCache`."""

    def __init__(self, library: Library, transformer: Transformer) -> None:
        self._config = config = transformer.config
        self._native = _transformer(library, transformer.layers, config, config.context)
        self._empty = library.native.empty_ring

    def ring(self, shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
        """A ring that takes memory only as its slots are written: a row that is never used takes none."""
        ring: mx.array = self._empty(list(shape), dtype == mx.bfloat16)
        return ring

    def takes(self, rows: int) -> bool:
        """Whether so many positions are computed here, rather than by wide products."""
        return rows <= _MOST_ROWS

    def __call__(self, x: mx.array, state: RingKVCache, lanes: Lanes) -> tuple[mx.array, RingKVCache]:
        """As `Transformer.__call__`."""
        shape, steps, config = x.shape, x.shape[1], self._config
        starts = state.offsets[lanes]
        positions = starts[:, None] + np.arange(steps)  # [w, T]
        rows = apply_sinusoid(x.reshape(-1, config.d_model), positions, config)
        slots = ring_slots(positions, config.context, state.pinned[lanes])
        outputs = self._native.step(
            rows, state.keys, state.values, lanes.tolist(), starts.tolist(), slots.ravel().tolist(), steps
        )
        layers = config.num_layers
        keys, values = tuple(outputs[1 : 1 + layers]), tuple(outputs[1 + layers :])
        offsets = state.offsets.copy()
        offsets[lanes] = starts + steps
        return outputs[0].reshape(shape), RingKVCache(keys, values, offsets, state.pinned)


class DepformerKernel:
    """All tokens of a step in one operation: output norm, text, the depth transformer, their sampling."""

    def __init__(self, library: Library, model: LmModel) -> None:
        config = model.config
        layers = _transformer(library, model.depformer.layers, config.depformer, config.dep_q)
        books = []
        for codebook in range(config.dep_q):
            table = model.depformer_text_emb if codebook == 0 else model.depformer_emb[codebook - 1]
            norm = model.depformer_norms[codebook] if config.depformer_norm is not None else None
            which, head = config.weight_sets[codebook], model.linears[codebook]
            books.append(
                library.native.Codebook(
                    which,
                    matrix(library, model.depformer_in[which]) if config.depformer_multi_linear else None,
                    matrix(library, table),
                    matrix(library, table.low_rank) if table.projected else None,
                    None if norm is None else _norm(library, norm),
                    matrix(library, head),
                    _floats(head.bias) if "bias" in head else None,
                )
            )
        text = model.text_linear
        head = library.native.TextHead(
            _norm(library, model.out_norm),
            matrix(library, text),
            _floats(text.bias) if "bias" in text else None,
            config.existing_text_padding_id,
        )
        shared = None if config.depformer_multi_linear else matrix(library, model.depformer_in[0])
        self._native = library.native.Depformer(layers, head, shared, books)

    @staticmethod
    def supports(model: LmModel) -> bool:
        """Whether the depth transformer of `model` is of this kind."""
        tables = [model.depformer_text_emb, *model.depformer_emb]
        sinusoids = model.config.depformer.positional_embedding in ("sin", "sin_rope")
        return not sinusoids and not any(table.normed for table in tables)

    def sample(
        self, context: mx.array, batch: SamplingBatch, codebooks: int, cfg_coef: float
    ) -> tuple[mx.array, mx.array]:
        """As the protocol says: the output norm is applied here, too."""
        repeated = [
            np.unique(tokens).tolist() if penalty != 1 else []
            for tokens, penalty in zip(batch.repetition_context, batch.repetition_penalty, strict=True)
        ]
        tokens: mx.array = self._native.sample(
            context,
            codebooks,
            batch.text.temperature.tolist(),
            batch.text.top_k.tolist(),
            batch.padding_bias.tolist(),
            batch.repetition_penalty.tolist(),
            repeated,
            batch.audio.temperature.tolist(),
            batch.audio.top_k.tolist(),
            [] if batch.uniforms is None else batch.uniforms[:, : 1 + codebooks].ravel().tolist(),
            cfg_coef,
        )
        return tokens[:, 0], tokens[:, 1:]


class QuantizerKernel:
    """The codec's residual quantizer: features to codes in one operation, and back in a few."""

    def __init__(self, library: Library, quantizer: SplitResidualVectorQuantizer) -> None:
        native = library.native
        self._encode, self._embed, self._linear = native.quantize, native.embed, native.linear
        self._quantizers, self._decoders = [], []
        for each in (quantizer.rvq_first, quantizer.rvq_rest):
            codebooks = _codebooks(library, each)
            self._quantizers.append(native.Quantizer(_matrix(library, each.input_proj), codebooks))
            self._decoders.append((codebooks, _matrix(library, each.output_proj)))

    def encode(self, x: mx.array) -> mx.array:
        """`x [N, D]` float32 → `[N, K]`."""
        codes: mx.array = self._encode(self._quantizers, x)
        return codes

    def decode(self, codes: mx.array) -> mx.array:
        """`codes [w, k ≤ K, T]` → `[w, T, D]`."""
        w, levels, steps = codes.shape
        codes = codes.astype(mx.int32)
        y, begin = None, 0
        for codebooks, projection in self._decoders:
            used = codebooks[: levels - begin]
            if not used:
                break
            centroids = self._embed(used, codes[:, begin : begin + len(used)])  # [w, T, d]
            part = self._linear(centroids.reshape(w * steps, -1), projection)
            y, begin = part if y is None else y + part, begin + len(used)
        assert y is not None
        decoded: mx.array = y.reshape(w, steps, -1)
        return decoded


def _codebooks(library: Library, quantizer: ResidualVectorQuantizer) -> list[Matrix]:
    return [_matrix(library, codebook) for codebook in quantizer.codebooks]


class SeanetKernel:
    """The codec's convolutions in one operation."""

    def __init__(self, library: Library, layers: Convolutions) -> None:
        native = library.native
        convolutions = []
        for layer, activated, _ in layers:
            weight, bias = _floats(layer.weight), _floats(layer.bias)
            if isinstance(layer, ConvTranspose1d):
                convolution = native.Convolution.transposed(weight, bias, layer.stride, activated)
            else:
                assert isinstance(layer, CausalConv1d)
                convolution = native.Convolution.causal(weight, bias, layer.stride, layer.dilation, activated)
            convolutions.append(convolution)
            layer.weight = mx.zeros((0,))  # the kernel has a copy, in the order in which it reads
        self._native = native.Seanet(convolutions, [residual for _, _, residual in layers])

    def __call__(self, x: mx.array, conv_state: ConvState) -> mx.array:
        """`x [w, T, C]` → the output of the last layer."""
        floats = self._native.state_floats
        before = conv_state.pop(1, floats).reshape(len(x), floats)
        y: mx.array
        y, after = self._native.step(x, before)
        conv_state.push(after)
        conv_state.eval_point(y)
        return y


def _downsample(library: Library, layer: ConvDownsample1d) -> ConvKernel:
    """The convolution of a downsampling layer."""
    convolution = library.native.Convolution.causal(_floats(layer.weight), None, layer.stride, 1, False)  # noqa: FBT003
    layer.weight = mx.zeros((0,))
    step: ConvKernel = library.native.Seanet([convolution], [-1]).step
    return step


def _norm(library: Library, norm: LayerNorm | RmsNorm) -> Any:  # noqa: ANN401 - a class of the library
    if isinstance(norm, RmsNorm):
        return library.native.Norm(_floats(norm.alpha), None, norm.eps)
    return library.native.Norm(_floats(norm.weight), _floats(norm.bias), norm.eps)


def _transformer(
    library: Library, layers: Sequence[TransformerLayer], config: TransformerConfig, context: int
) -> Any:  # noqa: ANN401 - a class of the library
    rope = {"rope": "interleaved", "sin_rope": "interleaved", "rope_concat": "halves"}
    native = []
    for layer in layers:
        attention = layer.self_attn
        if layer.gated:
            feed_in = [block.linear_in for block in layer.gating]
            feed_out = [block.linear_out for block in layer.gating]
        else:
            feed_in, feed_out = [layer.linear1], [layer.linear2]
        native.append(
            library.native.TransformerLayer(
                _norm(library, layer.norm1),
                _norm(library, layer.norm2),
                *(
                    [matrix(library, each) for each in part]
                    for part in (attention.in_projs, attention.out_projs, feed_in, feed_out)
                ),
                _floats(layer.layer_scale_1.scale) if layer.scaled else None,
                _floats(layer.layer_scale_2.scale) if layer.scaled else None,
            )
        )
    return library.native.Transformer(
        native,
        config.d_model,
        config.num_heads,
        config.num_kv_heads,
        context,
        config.gating == "silu",
        rope.get(config.positional_embedding, "none"),
        config.max_period,
    )


def attach_lm(model: LmModel, library: Library) -> None:
    """Let `model`, whose weights are loaded, compute with kernels."""
    model.lost_file = library.native.lost_file
    for module in model.modules():
        if isinstance(module, Linear | QuantizedLinear):
            module.kernel = LinearKernel(library, module)
        if isinstance(module, Embedding):
            module.widens = True
    model.transformer.kernel = TransformerKernel(library, model.transformer)
    if DepformerKernel.supports(model):
        model.depformer.kernel = DepformerKernel(library, model)
    tables = [model.text_emb, *model.emb]
    if not any(table.normed for table in tables):
        model.embedding_kernel = EmbeddingKernel(library, tables)


def attach_mimi(mimi: Mimi, library: Library) -> None:
    """Let `mimi`, whose weights are loaded, compute with kernels."""
    for transformer in (mimi.encoder_transformer, mimi.decoder_transformer):
        transformer.kernel = TransformerKernel(library, transformer)
    mimi.downsample.kernel = _downsample(library, mimi.downsample)
    mimi.quantizer.kernel = QuantizerKernel(library, mimi.quantizer)
    for network in (mimi.encoder, mimi.decoder):
        network.kernel = SeanetKernel(library, convolutions(network.model))
