"""A recipe small enough to be trained in a test, and a corpus to train it on that nobody had to speak."""

import json

import numpy as np

from pipeline.train.conversation.phrases import Exchange, draw
from pipeline.train.conversation.vocabulary import train_tokenizer
from pipeline.train.conversation.wording import ANSWERS
from pipeline.train.networks.architecture import RECIPE
from pipeline.train.recordings.bank import write_shard
from pipeline.train.synthesizers.aligned import aligned
from pipeline.train.synthesizers.spoken import Sound, Spoken
from pipeline.train.synthesizers.voices import Voice

WORD_SAMPLES = 4000


def small_recipe(folder):
    """The shipped recipe with fewer of everything; gives its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    mimi = json.loads((RECIPE / "mimi_config.json").read_text())
    mimi["seanet"] |= {"dimension": 16, "n_filters": 2}
    mimi["quantizer"] |= {"dimension": 8, "n_q": 4, "bins": 32, "input_dimension": 16, "output_dimension": 16}
    mimi["transformer"] |= {
        "d_model": 16, "num_heads": 2, "num_layers": 1, "dim_feedforward": 32, "context": 8,
        "layer_scale": 0.3, "input_dimension": 16, "output_dimensions": [16],
    }  # fmt: skip
    lm = json.loads((RECIPE / "config.json").read_text())
    lm |= {
        "dim": 32, "num_heads": 2, "num_layers": 2, "card": 32, "n_q": 6, "dep_q": 2, "context": 20,
        "delays": [0, 0, 1, 0, 1, 1, 1], "depformer_dim": 16, "depformer_dim_feedforward": 66,
        "depformer_context": 2,
    }  # fmt: skip
    (folder / "mimi_config.json").write_text(json.dumps(mimi))
    (folder / "config.json").write_text(json.dumps(lm))
    return folder


def spoken(text):
    """Each word a tone of its own, with a gap behind."""
    pieces, starts, sounds, at = [], [], [], 0
    for word in text.split():
        pitch_hz = 200 + sum(map(ord, word)) % 700
        tone = np.sin(2 * np.pi * pitch_hz * np.arange(WORD_SAMPLES) / 24_000) * 0.3
        pieces.append(np.concatenate([tone, np.zeros(700)]).astype(np.float32))
        starts.append(at)
        sounds += [Sound(word[0], at), Sound("_", at + WORD_SAMPLES)]
        at += len(pieces[-1])
    return Spoken(np.concatenate(pieces)[:-700], tuple(starts), tuple(sounds))


def small_corpus(folder, utterances=48):
    """Shards of each kind that training reads; gives its folder."""
    rng = np.random.default_rng(3)
    voice = Voice("a tone", 100, 50)
    questions = [draw(rng) for _ in range(utterances)]
    questions += [draw(rng, kind=kind) for kind in ("stop", "backchannel", "repeat") for _ in range(3)]
    for name in ("train-0000", "held-out-all"):
        write_shard(folder, name, [(one, voice, spoken(one.question)) for one in questions])
    answers = sorted({one.answer for one in questions if one.answer} | {ANSWERS["unknown"]})
    said = [(Exchange("unknown", text, ""), voice, aligned(spoken(text))) for text in answers]
    write_shard(folder, "agent", said)
    train_tokenizer(folder)
    return folder
