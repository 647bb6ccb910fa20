"""What is measured: the cases, their sizes, and which contender runs which case at which widths.

Plain data and the standard library. Only the runner imports it, no driver does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

Kind = Literal["mimi", "lm", "chain", "products"]
Stored = Literal["float32", "bfloat16", "8 bits", "4 bits"]
WIDTHS: Final = (1, 4, 8, 16)
STAGES: Final[Mapping[Kind, tuple[str, ...]]] = {
    "mimi": ("encode", "decode"),
    "lm": ("step",),
    "chain": ("all",),
    "products": ("products",),
}

# Moshi in other sizes: everything else is as in the published 7B model.
_MOSHI: Final[Mapping[str, Any]] = {
    "existing_text_padding_id": 3,
    "n_q": 16,
    "dep_q": 8,
    "card": 2048,
    "hidden_scale": 4.125,
    "causal": True,
    "layer_scale": None,
    "context": 3000,
    "max_period": 10000,
    "gating": "silu",
    "norm": "rms_norm_f32",
    "positional_embedding": "rope",
    "depformer_causal": True,
    "depformer_layer_scale": None,
    "depformer_multi_linear": True,
    "depformer_context": 8,
    "depformer_max_period": 10000,
    "depformer_gating": "silu",
    "depformer_pos_emb": "none",
    "depformer_weights_per_step": True,
    "delays": [0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1],
}
SIZES: Final[Mapping[str, Mapping[str, Any]]] = {
    "small": {
        **_MOSHI,
        "dim": 512, "num_heads": 8, "num_layers": 8, "text_card": 4000,
        "depformer_dim": 256, "depformer_num_heads": 4, "depformer_num_layers": 4,
        "depformer_dim_feedforward": 1056,
    },
    "mid": {
        **_MOSHI,
        "dim": 1024, "num_heads": 16, "num_layers": 16, "text_card": 32000,
        "depformer_dim": 512, "depformer_num_heads": 8, "depformer_num_layers": 6,
        "depformer_dim_feedforward": 2112,
    },
    # Hibiki 2B (configs/moshi_mlx_2b.json) without its conditions, which are added once, at no cost.
    "2b": {
        **_MOSHI,
        "dim": 2560, "num_heads": 20, "num_layers": 24, "text_card": 48000, "max_period": 100000,
        "n_q": 32, "dep_q": 16, "depformer_context": 16, "delays": [0, *([0] + [2] * 15) * 2],
        "depformer_dim": 1024, "depformer_num_heads": 16, "depformer_num_layers": 6,
        "depformer_dim_feedforward": 4224,
    },
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """One benchmark. `size` is that of the language model; the codec always has full size.

    widths: those that fit into memory wherever the model does.
    """

    name: str
    kind: Kind
    size: str
    about: str
    widths: tuple[int, ...] = WIDTHS


CASES: Final = {
    case.name: case
    for case in (
        Case("mimi", "mimi", "small", "full-size Mimi, 8 codebooks"),
        Case("small", "lm", "small", "language model of 82 million parameters"),
        Case("mid", "lm", "mid", "language model of 495 million parameters"),
        Case("chain", "chain", "small", "encode, step `small`, decode, one after the other"),
        Case("chain-mid", "chain", "mid", "encode, step `mid`, decode, one after the other"),
        Case("products", "products", "mid", "the matrix products of a step of `mid`, by themselves"),
        Case("2b", "lm", "2b", "language model of the 2B architecture", widths=(1,)),
    )
}
USUAL_CASES: Final = ("mimi", "small", "mid", "chain", "products")


@dataclass(frozen=True, slots=True)
class Contender:
    """An implementation: its driver, its environment (None: the project's own), its widths.

    exact: it computes in float32, so that codes and tokens can be compared. stored: how the checkpoint of
    its language model is stored, or the weights of its products.
    """

    name: str
    driver: str
    environment: str | None
    widths: Mapping[Kind, tuple[int, ...]]
    about: str
    options: tuple[str, ...] = ()
    exact: bool = True
    stored: Stored = "float32"


OURS: Final = "packet-voice"


def ours_in(stored: Stored) -> str:
    """The name of this project with weights that are stored so."""
    return OURS if stored == "float32" else f"ours, {stored}"


def ggml_in(stored: Stored) -> str:
    """The name of GGML with weights that are stored so."""
    return f"GGML, {stored}"


_EVERYTHING: Final[Mapping[Kind, tuple[int, ...]]] = {"mimi": WIDTHS, "lm": WIDTHS, "chain": WIDTHS}
STORED: Final[tuple[Stored, ...]] = ("bfloat16", "8 bits", "4 bits")
CONTENDERS: Final = (
    Contender(
        OURS,
        "drive_ours.py",
        None,
        {**_EVERYTHING, "products": WIDTHS},
        "this project, a float32 checkpoint; each of the products by themselves is an operation of MLX",
    ),
    Contender(
        "MLX alone", "drive_ours.py", None, _EVERYTHING, "the same without native kernels", ("kernels=off",)
    ),
    *(
        Contender(
            ours_in(stored),
            "drive_ours.py",
            None,
            {"lm": WIDTHS, "products": WIDTHS},
            f"this project, the same weights in a checkpoint of {stored}",
            exact=False,
            stored=stored,
        )
        for stored in STORED
    ),
    Contender(
        "moshi",
        "drive_torch.py",
        "torch",
        _EVERYTHING,
        "the official package for PyTorch, float32, without its compiled pieces, which are slower here",
    ),
    Contender(
        "moshi bf16",
        "drive_torch.py",
        "torch",
        {"lm": WIDTHS},
        "the same, its language model in bfloat16, as it loads by default: half the bytes, other tokens",
        options=("bf16",),
        exact=False,
    ),
    Contender(
        "moshi_mlx",
        "drive_mlx.py",
        "mlx",
        # A frame takes a second, a batch of eight takes eight: wider batches are omitted.
        {"mimi": (1,), "lm": (1,), "chain": (1,)},
        "the official package for MLX, float32; in the chain with rustymimi, as its own programs. Its own "
        "codec lets the two positions of a frame attend to each other, so its codes differ",
    ),
    Contender(
        "moshi_mlx+MKL",
        "drive_mlx.py",
        "mlx",
        {"mimi": (1,), "lm": WIDTHS, "chain": WIDTHS},
        "the same with MKL loaded first",
        options=("mkl",),
    ),
    Contender("rustymimi", "drive_rustymimi.py", "mlx", {"mimi": WIDTHS}, "the official codec in Rust"),
    *(
        Contender(
            ggml_in(stored),
            "drive_ggml.py",
            "ggml",
            {"products": WIDTHS},
            f"GGML, the library of llama.cpp, compiled for this processor: {how}",
            options=(kind,),
            exact=stored == "float32",
            stored=stored,
        )
        for stored, kind, how in (
            ("float32", "F32", "float32"),
            ("bfloat16", "BF16", "bfloat16, the inputs too"),
            ("8 bits", "Q8_0", "8 bits with a scale for 32 numbers, the inputs too"),
            (
                "4 bits",
                "Q4_0",
                "4 bits with a scale for 32, in its order for wide products; the inputs in 8 bits",
            ),
        )
    ),
)
# This project in other settings: none of them is a peer.
VARIANTS: Final = frozenset(contender.name for contender in CONTENDERS if contender.environment is None) - {
    OURS
}
