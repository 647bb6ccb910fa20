"""A tiny Whisper model, built in a second, with a known transcript for any audio.

The files are those of a repository of the public hub, and the graphs have its inputs and outputs: a
convolutional encoder, self- and cross-attention with key/value caches, random weights. The output is
scripted on top: half a second of audio is a *slot*, a loud slot gives the word of its position in the
window (`WORDS[slot]`), and the alignment heads attend to that slot. So text, timestamps and word times
follow from where the audio is loud:

    slots 0, 1, 2 loud, 3 quiet, 4 loud  →  <|0.00|> alpha bravo charlie<|1.50|><|2.00|>…

Two more behaviours are scripted: audio with more treble than bass is German, and the task *translate*
repeats "ha" endlessly at temperature 0.

`PYTHONPATH=tests python tests/support/browser/tiny_whisper.py FOLDER` writes the files.
"""

import json
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from support.browser.whisper_graph import (
    FRAMES,
    NEVER,
    TARGETS,
    TOKENIZER_CONFIG,
    Graph,
    Sizes,
    config_of,
    features_of,
)

SLOT_S = 0.5
SLOTS = 60
SLOT_FRAMES = FRAMES // SLOTS
NAMES = """
alpha bravo charlie del echo foxtrot golf hotel india juliett kilo lima mike november oscar papa
quebec romeo sierra tango uniform victor whiskey xray yankee zulu zero one two three four five six
seven eight nine red orange yellow green blue violet black white gray brown north south east west
spring summer autumn winter copper silver gold iron glass
"""
WORDS = [f" {name}" for name in NAMES.split()]
WORDS.insert(WORDS.index(" del") + 1, "ta")  # one word may be two tokens
LOOP = " ha"
LANGUAGES = ("en", "de", "fr")

MELS, WIDTH, HEADS, LAYERS = 80, 16, 2, 2
LOUD = -0.3  # mean log-mel of a slot: audio is above, silence below

Array = npt.NDArray[np.float32]


def _byte_letters() -> list[str]:
    """GPT-2's byte alphabet: every byte as one printable letter."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


LETTERS = _byte_letters()
SPELLED = ["".join(LETTERS[byte] for byte in text.encode()) for text in (*WORDS, LOOP)]


class Vocabulary:
    """The token ids; an English-only model has neither languages nor tasks."""

    def __init__(self) -> None:
        special = ["endoftext", "startoftranscript", *LANGUAGES, "translate", "transcribe"]
        special += ["startoflm", "startofprev", "nospeech", "notimestamps"]
        self.tokens = [*LETTERS, *SPELLED]
        self.first_special = len(self.tokens)
        self.added = [f"<|{name}|>" for name in special]
        self.added += [f"<|{index / 50:.2f}|>" for index in range(FRAMES + 1)]
        self.size = self.first_special + len(self.added)

    def __getitem__(self, name: str) -> int:
        return self.first_special + self.added.index(f"<|{name}|>")

    def word(self, slot: int) -> int:
        return len(LETTERS) + slot

    @property
    def loop(self) -> int:
        return len(LETTERS) + SLOTS

    def time(self, slot: int) -> int:
        return self["0.00"] + slot * SLOT_FRAMES


class RandomGraph(Graph):
    """With random weights besides."""

    def __init__(self, sizes: Sizes, seed: int) -> None:
        super().__init__(sizes)
        self._random = np.random.default_rng(seed)

    def weight(self, *shape: int) -> str:
        return self.constant(0.05 * self._random.standard_normal(shape))


def _sizes(vocabulary: Vocabulary) -> Sizes:
    return Sizes(MELS, WIDTH, HEADS, 1, LAYERS, vocabulary.size)


def encoder(vocabulary: Vocabulary) -> bytes:
    """`input_features` [B, 80, 3000] → `last_hidden_state` [B, 1500, 16].

    Channel 0 is the loudness of its frame and channel 1 its treble less its bass; the other 14 are
    what two random convolutions and one self-attention make of the sound.
    """
    graph = RandomGraph(_sizes(vocabulary), 1)
    probe = np.zeros((2, MELS, 3))
    probe[0] = 1 / (3 * MELS)
    probe[1, -20:] = 1 / 60
    probe[1, :20] = -1 / 60
    steps = {"strides": [2], "pads": [1, 1]}
    scripted = graph("Conv", "input_features", graph.constant(probe), **steps)
    first = graph("Conv", "input_features", graph.weight(WIDTH, MELS, 3), pads=[1, 1])
    second = graph("Conv", graph("Tanh", first), graph.weight(WIDTH, WIDTH, 3), **steps)
    seen = graph("Transpose", graph("Tanh", second), perm=[0, 2, 1])
    seen = graph("Add", seen, graph.weight(1, FRAMES, WIDTH))
    shaped = graph("Reshape", seen, graph.ints(0, SLOTS, SLOT_FRAMES, WIDTH))
    slots = graph("ReduceMean", shaped, axes=[2], keepdims=0)  # attended to; all frames would take long
    query, key, value = (
        graph.heads(graph("MatMul", source, graph.weight(WIDTH, WIDTH))) for source in (seen, slots, slots)
    )
    mixed, _ = graph.attention(query, key, value, None)
    kept = graph("Slice", graph("Add", seen, mixed), graph.ints(0), graph.ints(WIDTH - 2), graph.ints(2))
    turned = graph("Transpose", scripted, perm=[0, 2, 1])
    graph("Concat", turned, kept, axis=2, out="last_hidden_state")
    return graph.encoder_bytes()


def decoder(vocabulary: Vocabulary) -> bytes:
    """`input_ids` [B, T] and the encoder's states → `logits` [B, T, V], caches, cross-attentions."""
    graph = RandomGraph(_sizes(vocabulary), 2)
    loud, treble = _loudness(graph)
    positions, causal = graph.positions()
    state = graph("Gather", graph.weight(vocabulary.size, WIDTH), "input_ids")
    state = graph("Add", state, graph("Gather", graph.weight(TARGETS, WIDTH), positions))
    alignment = _alignment(graph, vocabulary, loud)
    for layer in range(LAYERS):
        state = graph("Add", state, _attend(graph, layer, "decoder", state=state, source=state, bias=causal))
        # Only the heads of the last layer attend to the words; they are the alignment heads.
        bias = alignment if layer == LAYERS - 1 else None
        sound = graph.unseen_states(layer)
        heard = _attend(graph, layer, "encoder", state=state, source=sound, bias=bias)
        state = graph("Add", state, heard)
    guessed = graph("MatMul", state, graph.weight(WIDTH, vocabulary.size))
    graph("Add", guessed, _script(graph, vocabulary, loud, treble), out="logits")
    return graph.decoder_bytes()


def _attend(graph: RandomGraph, layer: int, side: str, *, state: str, source: str, bias: str | None) -> str:
    """Attention over what the cache holds and what is new in `source`."""
    query = graph.heads(graph("MatMul", state, graph.weight(WIDTH, WIDTH)))
    key, value = (
        graph.cached(layer, side, part, graph.heads(graph("MatMul", source, graph.weight(WIDTH, WIDTH))))
        for part in ("key", "value")
    )
    mixed, weights = graph.attention(query, key, value, bias)
    if side == "encoder":
        graph("Identity", weights, out=f"cross_attentions.{layer}")
    return mixed


def _loudness(graph: Graph) -> tuple[str, str]:
    """For each slot, whether it is loud (0 or 1, [B, 60]); for all, treble less bass ([B, 1])."""
    shaped = graph("Reshape", "encoder_hidden_states", graph.ints(0, SLOTS, SLOT_FRAMES, WIDTH))
    slots = graph("ReduceMean", shaped, axes=[2], keepdims=0)
    energy, tilt = (graph("Gather", slots, graph.constant(n, np.int64), axis=2) for n in range(2))
    steep = graph("Mul", graph("Sub", energy, graph.constant(LOUD)), graph.constant(50.0))
    loud = graph("Clip", graph("Add", steep, graph.constant(0.5)), graph.constant(0.0), graph.constant(1.0))
    count = graph("Max", graph("ReduceSum", loud, graph.ints(1)), graph.constant(0.5))
    return loud, graph("Div", graph("ReduceSum", graph("Mul", loud, tilt), graph.ints(1)), count)


def _alignment(graph: Graph, vocabulary: Vocabulary, loud: str) -> str:
    """Where in the sound each token's successor is, as the logarithm of a distribution [B, 1, T, 1500].

    A word lies in its slot; a timestamp lies just before the slot that it opens.
    """
    places = np.zeros((2, SLOTS, FRAMES), np.float32)
    wanted = np.full((2, vocabulary.size, SLOTS), -1e3, np.float32)
    slots = np.arange(SLOTS)
    for slot in range(SLOTS):
        begin = slot * SLOT_FRAMES
        places[0, slot, begin : begin + SLOT_FRAMES] = 1 / SLOT_FRAMES
        places[1, slot, max(0, begin - 8) : max(3, begin)] = 1 / (8 if slot else 3)
        wanted[0, vocabulary.word(slot), min(slot + 1, SLOTS - 1)] = 0
    for index in range(FRAMES + 1):
        here = index // SLOT_FRAMES
        ahead = slots > here
        wanted[1 if index else 0, vocabulary.time(0) + index, ahead] = -2 * (slots - here)[ahead]
        wanted[0, vocabulary.time(0) + index, slots == here] = 10
    for name in ("transcribe", "translate", "startoftranscript"):
        wanted[1, vocabulary[name]] = -2 * slots
    scores = graph("Gather", graph.constant(np.concatenate(wanted, axis=1)), "input_ids")
    louder = graph("Mul", graph("Concat", loud, loud, axis=1), graph.constant(40.0))
    weights = graph("Softmax", graph("Add", scores, graph("Unsqueeze", louder, graph.ints(1))), axis=-1)
    likely = graph("MatMul", weights, graph.constant(np.concatenate(places)))
    return graph("Unsqueeze", graph("Log", graph("Add", likely, graph.constant(1e-6))), graph.ints(1))


def _script(graph: Graph, vocabulary: Vocabulary, loud: str, treble: str) -> str:
    """The logits of the scripted output, [B, T, V].

    A column of `scores` is the score of one token, given the previous token; some columns increase if a
    slot is loud. Tokens without a score are 1000 lower.
    """
    targets: list[int] = [vocabulary.word(slot) for slot in range(SLOTS)]
    targets += [vocabulary.time(slot) for slot in range(SLOTS)]
    rising = len(targets)
    targets += [vocabulary.time(slot + 1) for slot in range(SLOTS)]
    names = ["endoftext", "nospeech", *LANGUAGES]
    early = vocabulary.time(0) + 1  # <|0.02|>, which begins the loop
    targets += [*(vocabulary[name] for name in names), vocabulary.loop, early]
    scores = np.full((vocabulary.size, len(targets)), NEVER, np.float32)
    column = {name: rising + SLOTS + n for n, name in enumerate([*names, "loop", "early"])}
    slots = np.arange(SLOTS)
    for slot in range(SLOTS):
        scores[vocabulary.word(slot), rising + slot] = 200
        if slot + 1 < SLOTS:
            scores[vocabulary.word(slot), slot + 1] = 0
    for index in range(FRAMES + 1):
        token, here = vocabulary.time(0) + index, index // SLOT_FRAMES
        ahead = slots > here
        scores[token, :SLOTS][ahead] = -300 - 3 * (slots - here)[ahead]
        scores[token, SLOTS:rising][ahead] = -100 - 3 * (slots - here)[ahead]
        scores[token, :SLOTS][slots == here] = -250
        scores[token, column["endoftext"]] = -100
    for name in ("transcribe", "translate", "startoftranscript"):
        scores[vocabulary[name], SLOTS:rising] = -100 - 3 * slots
    start = vocabulary["startoftranscript"]
    for name, score in (("nospeech", -400), ("en", 105), ("de", 105), ("fr", 100)):
        scores[start, column[name]] = score
    scores[vocabulary["translate"], column["early"]] = 350
    scores[early, column["loop"]] = 500
    scores[vocabulary.loop, column["loop"]] = 403
    scores[vocabulary.loop, rising + 1] = 402.5  # <|1.00|>

    quiet = graph("Sub", graph.constant(1.0), graph("ReduceMax", loud, axes=[1], keepdims=1))
    german = graph(
        "Clip", graph("Mul", treble, graph.constant(40.0)), graph.constant(-5.0), graph.constant(10.0)
    )
    raised = np.zeros((SLOTS + 2, len(targets)), np.float32)
    raised[slots, slots] = raised[slots, SLOTS + slots] = 400
    raised[SLOTS, column["nospeech"]] = 700
    raised[SLOTS + 1, column["de"]] = 1
    sound = graph("MatMul", graph("Concat", loud, quiet, german, axis=1), graph.constant(raised))
    reasons = graph("Gather", graph.constant(scores + 1000), "input_ids")
    reasons = graph("Relu", graph("Add", reasons, graph("Unsqueeze", sound, graph.ints(1))))
    meant = np.zeros((len(targets), vocabulary.size), np.float32)
    meant[np.arange(len(targets)), targets] = 1
    return graph("Sub", graph("MatMul", reasons, graph.constant(meant)), graph.constant(1000.0))


def files(*, multilingual: bool = True, aligned: bool = True, quantized: bool = False) -> dict[str, bytes]:
    """The repository, by path.

    Not `aligned` is one whose alignment heads are not known; `quantized` has the 8-bit files besides,
    in which nothing is quantized.
    """
    vocabulary = Vocabulary()
    end, start = vocabulary["endoftext"], vocabulary["startoftranscript"]
    sizes = _sizes(vocabulary)
    generation: dict[str, object] = {
        "decoder_start_token_id": start,
        "eos_token_id": end,
        "pad_token_id": end,
        "no_timestamps_token_id": vocabulary["notimestamps"],
        "is_multilingual": multilingual,
        "max_length": TARGETS,
        "suppress_tokens": [vocabulary[n] for n in ("startoftranscript", "startofprev", "nospeech")],
        "begin_suppress_tokens": [LETTERS.index("Ġ"), end],
    }
    if aligned:
        generation["alignment_heads"] = [[LAYERS - 1, head] for head in range(HEADS)]
    if multilingual:
        generation["lang_to_id"] = {f"<|{name}|>": vocabulary[name] for name in LANGUAGES}
        generation["task_to_id"] = {name: vocabulary[name] for name in ("transcribe", "translate")}
    bytewise = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    added = [
        {
            "id": vocabulary.first_special + n,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": n <= vocabulary["notimestamps"] - vocabulary.first_special,
        }
        for n, token in enumerate(vocabulary.added)
    ]
    spelled = {token: n for n, token in enumerate(vocabulary.tokens)}
    bpe = {"type": "BPE", "unk_token": None, "vocab": spelled, "merges": []}
    tokenizer = {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": bytewise,
        "post_processor": None,
        "decoder": bytewise,
        "model": bpe,
    }
    objects = {
        "config.json": config_of(sizes, start=start, end=end),
        "generation_config.json": generation,
        "preprocessor_config.json": features_of(sizes),
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": TOKENIZER_CONFIG,
    }
    made = {name: json.dumps(held).encode() for name, held in objects.items()}
    made["onnx/encoder_model.onnx"] = encoder(vocabulary)
    made["onnx/decoder_model_merged.onnx"] = decoder(vocabulary)
    if quantized:
        for name in ("encoder_model", "decoder_model_merged"):
            made[f"onnx/{name}_quantized.onnx"] = made[f"onnx/{name}.onnx"]
    return made


def sound(*loud: int, seconds: float | None = None, high: bool = False, seed: int = 0) -> Array:
    """16 kHz samples that are loud in these slots and silent elsewhere; `high` has more treble than bass."""
    slot_samples = int(16_000 * SLOT_S)
    samples = int(16_000 * seconds) if seconds is not None else slot_samples * (max(loud, default=0) + 1)
    noise = np.random.default_rng(seed).standard_normal(samples + 1)
    tinted = (noise[1:] - noise[:-1]) if high else (noise[1:] + noise[:-1])
    shape = np.zeros(samples)
    for slot in loud:
        shape[slot * slot_samples : (slot + 1) * slot_samples] = 0.15
    return (tinted * shape).astype(np.float32)


if __name__ == "__main__":
    for path, content in files().items():
        place = Path(sys.argv[1]) / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
