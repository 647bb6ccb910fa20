"""The official repository's own test of its language model passes here."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from pipeline.models.checkpoint.lm_config import LmConfig, parse_lm_config
from pipeline.models.lm import LmModel, Logits

DATA = Path(__file__).parent.parent / "data" / "moshi_test_lm"


@pytest.fixture(scope="module")
def config() -> LmConfig:
    return parse_lm_config(
        {
            "delays": [0, 1, 2, 4],
            "n_q": 3,
            "dep_q": 3,
            "card": 32,
            "text_card": 48,
            "dim": 16,
            "num_layers": 2,
            "num_heads": 1,
            "hidden_scale": 1,
            "depformer_dim": 16,
            "depformer_multi_linear": True,
            "depformer_weights_per_step": True,
            "depformer_weights_per_step_schedule": [0, 1, 1],
            "depformer_low_rank_embeddings": 8,
            "depformer_num_heads": 1,
            "depformer_gating": "silu",
            "context": 4,
        }
    )


@pytest.fixture(scope="module")
def codes() -> np.ndarray:
    return np.array(mx.load(str(DATA / "test_lm_codes.safetensors"))["codes"])


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    return {name: np.array(value) for name, value in mx.load(str(DATA / "test_lm_out.safetensors")).items()}


@pytest.fixture(scope="module")
def predicted(config: LmConfig, codes: np.ndarray) -> Logits:
    model = LmModel(config)
    model.load_weights(DATA / "test_lm_model.safetensors")
    return model.logits(codes)


def cross_entropy(logits: np.ndarray, codes: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean over batch and time, per codebook, in float64."""
    logits = np.where(np.isnan(logits), 0, logits).astype(np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    picked = np.take_along_axis(log_probabilities, np.where(mask, codes, 0)[..., None], axis=-1)[..., 0]
    return -np.where(mask, picked, 0).mean(axis=(0, 2))


def test_cross_entropy_of_every_codebook_is_the_reference(predicted: Logits, reference, codes) -> None:
    """Per codebook, text included, within 1e-5 of the reference, relatively."""
    audio = cross_entropy(np.array(predicted.audio), codes[:, 1:], predicted.audio_mask)
    text = cross_entropy(np.array(predicted.text), codes[:, :1], predicted.text_mask)
    np.testing.assert_allclose(
        audio, cross_entropy(reference["logits"], codes[:, 1:], reference["mask"]), rtol=1e-5
    )
    np.testing.assert_allclose(
        text, cross_entropy(reference["text_logits"], codes[:, :1], reference["text_mask"]), rtol=1e-5
    )


def test_masks_and_logits_are_the_reference(predicted: Logits, reference) -> None:
    """The same predictions count, the same are NaN, and each logit is within 1e-5."""
    np.testing.assert_array_equal(predicted.audio_mask, reference["mask"])
    np.testing.assert_array_equal(predicted.text_mask, reference["text_mask"])
    np.testing.assert_allclose(np.array(predicted.audio), reference["logits"], atol=1e-5)
    np.testing.assert_allclose(np.array(predicted.text), reference["text_logits"], atol=1e-5)
