"""A run that begins with trained weights, and an encoder that is trained while the rest stays."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402
from support.train.recipes import small_corpus, small_recipe, spoken  # noqa: E402

from pipeline.train import average, codec, start  # noqa: E402
from pipeline.train.conversation.phrases import Exchange  # noqa: E402
from pipeline.train.conversation.speakers import agent_of, with_shared_phrases  # noqa: E402
from pipeline.train.conversation.vocabulary import PADDING, train_tokenizer  # noqa: E402
from pipeline.train.networks.architecture import mimi_sizes, moshi_sizes  # noqa: E402
from pipeline.train.networks.mimi import MimiNetwork  # noqa: E402
from pipeline.train.networks.moshi import MoshiNetwork  # noqa: E402
from pipeline.train.recordings.bank import read_shard, read_shards, write_shard  # noqa: E402
from pipeline.train.recordings.gathered import Recordings  # noqa: E402
from pipeline.train.runs.checkpoints import codec_of, codes_folder, language_of  # noqa: E402
from pipeline.train.start import renumbered  # noqa: E402
from pipeline.train.synthesizers.spoken import SILENCE, Sound, Spoken  # noqa: E402
from pipeline.train.synthesizers.voices import Voice  # noqa: E402
from pipeline.units import FRAME_SAMPLES  # noqa: E402

CPU = torch.device("cpu")
QUIET = (Sound(SILENCE, 0),)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Encoders learn from the first step."""
    monkeypatch.setattr(codec, "_HEADS_ALONE_STEPS", 0)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small recipe, its corpus, and a checkpoint of random weights."""
    folder = tmp_path_factory.mktemp("started")
    recipe, corpus = small_recipe(folder / "recipe"), small_corpus(folder / "corpus")
    checkpoint = folder / "checkpoint"
    train_tokenizer(checkpoint)
    torch.manual_seed(7)
    mimi, moshi = MimiNetwork(mimi_sizes(recipe)), MoshiNetwork(moshi_sizes(recipe))
    for book in mimi.quantizer.modules():
        if hasattr(book, "cluster_usage"):
            book.embedding_sum.normal_()
            book.cluster_usage.fill_(1.0)
            book._initialized.fill_(1.0)
    for model, name in ((mimi, "mimi"), (moshi, "model")):
        tensors = {key: tensor.detach().clone().contiguous() for key, tensor in model.published().items()}
        save_file(tensors, checkpoint / f"{name}.safetensors")
    arguments = ["--corpus", str(corpus), "--recipe", str(recipe), "--out", str(folder / "run")]
    assert start.main([*arguments, "--checkpoint", str(checkpoint)]) == 0
    return folder, recipe, arguments, mimi, moshi


def test_a_run_begins_where_the_checkpoint_was(made):
    """All weights of both networks, as long as the words are the same."""
    folder, recipe, _, mimi, moshi = made
    for network, begun in (
        (mimi, codec_of(folder / "run", mimi_sizes(recipe), CPU)),
        (moshi, language_of(folder / "run", moshi_sizes(recipe), CPU)),
    ):
        for name, tensor in network.state_dict().items():
            torch.testing.assert_close(begun.state_dict()[name], tensor, msg=name)


def test_a_run_that_has_begun_is_not_begun_again(made, capsys):
    """What was trained since would be lost."""
    folder, _, arguments, *_ = made
    assert start.main([*arguments, "--checkpoint", str(folder / "checkpoint")]) == 2
    assert "already" in capsys.readouterr().err


def test_a_word_keeps_its_row_through_capitals_and_stops():
    """ "Seven." begins as "seven" was; a word that is new as none was; special tokens stay."""
    first = PADDING + 1
    rows = torch.arange(first + 3, dtype=torch.float32)[:, None].repeat(1, 4)  # 2 words, 1 initial token
    old = {"seven": first, "is": first + 1}
    new = {"Seven": first, "hello": first + 1, "is": first + 2, "seven.": first + 3}
    made = renumbered(rows, old, new, first + 4)
    torch.testing.assert_close(made[:first], rows[:first])
    torch.testing.assert_close(made[[first, first + 3, first + 2]], rows[[first, first, first + 1]])
    torch.testing.assert_close(made[-1], rows[-1])
    assert len(made) == first + 5
    assert not any(torch.equal(made[first + 1], row) for row in rows)


def test_an_encoder_is_trained_alone(made):
    """Codebooks, decoder and the agent's codes stay bit for bit; the user's encoder does not."""
    folder, recipe, arguments, mimi, _ = made
    few = ["--steps", "3", "--frames", "4", "--batch", "8", "--only", "encoder", "--rate", "0.01"]
    assert codec.main([*arguments, *few]) == 0
    sizes = mimi_sizes(recipe)
    users, agent = (codec_of(folder / "run", sizes, CPU, agent=which) for which in (False, True))
    moved = {
        name.split(".")[0] + (".input_proj" if "input_proj" in name else "")
        for name, tensor in users.state_dict().items()
        if not torch.equal(tensor, agent.state_dict()[name])
    }
    assert {"encoder", "encoder_transformer", "downsample"} <= moved
    assert moved <= {"encoder", "encoder_transformer", "downsample", "quantizer.input_proj"}
    for name, tensor in mimi.state_dict().items():
        assert torch.equal(agent.state_dict()[name], tensor), name
    sound = torch.randn(1, 1, 1920 * 3) * 0.1
    codes = agent.encode(sound)
    assert torch.equal(users.decode(codes), agent.decode(codes))


def test_voices_that_are_recorded_later_may_have_other_phonemes(made, tmp_path):
    """The numbers of a run's phonemes stay what they were when it began; a phoneme that is new has none."""
    _, recipe, _, mimi, _ = made
    corpus, out = small_corpus(tmp_path / "corpus"), tmp_path / "run"
    out.mkdir()
    torch.save({"step": 0, "parts": {"model": mimi.state_dict()}}, out / "codec.pt")
    few = ["--frames", "4", "--batch", "8", "--only", "encoder"]
    arguments = ["--corpus", str(corpus), "--recipe", str(recipe), "--out", str(out), *few]
    assert codec.main([*arguments, "--steps", "1"]) == 0
    said = spoken("what is three plus four")
    sounds = (Sound("A new one", 0), *said.sounds[1:])  # the first in alphabetical order
    exchange = Exchange("sum", "Three plus four is seven.", "what is three plus four")
    voice = Voice("a later tone", 100, 50)
    write_shard(corpus, "natural-0000", [(exchange, voice, Spoken(said.pcm, said.word_starts, sounds))])
    trainer = codec.Trainer(codec.parse([*arguments, "--steps", "2"]))
    assert "A new one" not in trainer.table
    later = Recordings([read_shard(corpus, "natural-0000")], trainer.table, CPU)
    found = later.phonemes(torch.tensor([0]), torch.tensor([0]), 16)[0].flatten().tolist()
    assert found[0] == -1
    assert {trainer.table[number] for number in found if number >= 0} >= {"i", "t", "p", "f", "_"}
    assert codec.main([*arguments, "--steps", "3"]) == 0


def test_the_heads_of_an_encoder_learn_first(made, tmp_path, monkeypatch):
    """Until they predict something, their gradients would ruin what it has learnt."""
    _, recipe, _, mimi, _ = made
    monkeypatch.setattr(codec, "_HEADS_ALONE_STEPS", 2)
    corpus, out = small_corpus(tmp_path / "corpus"), tmp_path / "run"
    out.mkdir()
    torch.save({"step": 0, "parts": {"model": mimi.state_dict()}}, out / "codec.pt")
    arguments = ["--corpus", str(corpus), "--recipe", str(recipe), "--out", str(out), "--rate", "0.01"]
    few, sound = ["--frames", "4", "--batch", "8", "--only", "encoder"], torch.randn(1, 1, 1920 * 3) * 0.1
    for steps, changed in (("2", False), ("3", True)):
        assert codec.main([*arguments, *few, "--steps", steps]) == 0
        users = codec_of(out, mimi_sizes(recipe), CPU)
        assert torch.equal(users.features(sound), mimi.eval().features(sound)) != changed


def test_the_agents_codes_are_those_that_the_decoder_knows(made):
    """Sessions have the agent's codes of the codec as it was, whatever became of the users' encoder."""
    folder, recipe, arguments, *_ = made
    few = ["--steps", "3", "--frames", "4", "--batch", "8", "--only", "encoder", "--rate", "0.01"]
    assert codec.main([*arguments, *few]) == 0
    shard = read_shards(folder / "corpus", "agent")[0]
    now, before = (
        agent_of(shard, codec_of(folder / "run", mimi_sizes(recipe), CPU, agent=which), 2, CPU).codes
        for which in (True, False)
    )
    assert any((now[text] != before[text]).any() for text in now)
    direct = agent_of(shard, made[3].eval(), 2, CPU, folder / "kept.npz").codes
    assert all((now[text] == direct[text]).all() for text in now)
    kept = agent_of(shard, made[3], 2, CPU, folder / "kept.npz").codes
    assert all((kept[text] == direct[text]).all() for text in direct)
    lengths = {one.text: one.samples // 1920 for one in shard.utterances}
    assert {text: codes.shape for text, codes in kept.items()} == {t: (2, n) for t, n in lengths.items()}


def test_a_phrase_has_the_same_codes_in_every_sum(tmp_path):
    """Where it sounds the same; the codes of a sentence are then no longer those that it was encoded with."""
    rng = np.random.default_rng(1)
    sounds = {
        phrase: rng.standard_normal(2 * FRAME_SAMPLES) * 0.1 for phrase in ("Six plus", "three is", "two is")
    }
    sounds |= {
        "nine.": rng.standard_normal(FRAME_SAMPLES) * 0.1,
        "eight.": rng.standard_normal(FRAME_SAMPLES) * 0.1,
    }

    def sentence(*phrases, other=0.0):
        pcm = np.concatenate([sounds[phrase] for phrase in phrases]).astype(np.float32)
        starts = tuple(FRAME_SAMPLES * frame for frame in range(5))
        return (
            Exchange("unknown", " ".join(phrases), ""),
            Voice("a voice", 100, 50),
            Spoken(pcm + other, starts, QUIET),
        )

    write_shard(
        tmp_path,
        "agent",
        [
            sentence("Six plus", "three is", "nine."),
            sentence("Six plus", "two is", "eight."),
            sentence("Six plus", "three is", "eight.", other=0.01),
        ],
    )
    shard = read_shard(tmp_path, "agent")
    encoded = {one.text: np.full((2, 5), number) for number, one in enumerate(shard.utterances)}
    first, second, third = with_shared_phrases(shard, encoded).values()
    assert first[0].tolist() == [0] * 5
    assert second[0].tolist() == [0, 0, 1, 1, 1]
    assert third[0].tolist() == [2] * 5


@pytest.mark.parametrize("before", [("codec",), ("codec", "encoder")])
def test_the_agent_gets_another_voice(made, tmp_path, before):
    """Its decoder and the encoder of its own are trained; codebooks and the users' codes stay bit for bit."""
    _, recipe, _, mimi, _ = made
    sizes, sound = mimi_sizes(recipe), torch.randn(1, 1, 1920 * 3) * 0.1
    corpus, out = small_corpus(tmp_path / "corpus"), tmp_path / "run"
    out.mkdir()
    for name in before:
        torch.save({"step": 0, "parts": {"model": mimi.state_dict()}}, out / f"{name}.pt")
    arguments = ["--corpus", str(corpus), "--recipe", str(recipe), "--out", str(out)]
    few = ["--steps", "3", "--frames", "4", "--batch", "10", "--rate", "0.01"]
    folder = codes_folder(out, codec_of(out, sizes, CPU), codec_of(out, sizes, CPU, agent=True))
    assert codec.main([*arguments, *few, "--only", "voice"]) == 0
    users, agent = (codec_of(out, sizes, CPU, agent=which) for which in (False, True))
    assert torch.equal(users.encode(sound), mimi.eval().encode(sound))
    assert torch.equal(users.features(sound), mimi.features(sound))
    books = {name for name in mimi.state_dict() if "_codebook" in name or "output_proj" in name}
    for name, tensor in agent.state_dict().items():
        assert torch.equal(tensor, mimi.state_dict()[name]) == (name in books), name
    codes = mimi.encode(sound)
    assert torch.equal(users.decode(codes), agent.decode(codes))
    assert codes_folder(out, users, agent) != folder
    assert codec.main([*arguments, *few, "--only", "decoder"]) == 0
    later = codec_of(out, sizes, CPU, agent=True)
    assert torch.equal(later.encode(sound), agent.encode(sound))
    assert not torch.equal(later.decode(codes), agent.decode(codes))


def test_two_checkpoints_are_averaged(made, tmp_path):
    """Weight by weight, in the given share; another architecture is refused."""
    folder, *_ = made
    one, other, mean = (tmp_path / name for name in ("one", "other", "mean"))
    for path, value in ((one, 1.0), (other, 4.0)):
        path.mkdir()
        save_file({"weight": torch.full((2, 3), value, dtype=torch.float16)}, path / "model.safetensors")
    (other / "config.json").write_text("{}")
    assert average.main(["--of", str(one), "--and", str(other), "--share", "0.75", "--to", str(mean)]) == 0
    assert torch.equal(load_file(mean / "model.safetensors")["weight"], torch.full((2, 3), 3.25).half())
    assert (mean / "config.json").read_text() == "{}"
    assert average.main(["--of", str(folder / "checkpoint"), "--and", str(one), "--to", str(mean)]) == 2
