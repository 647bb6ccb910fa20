"""The networks that are trained are those that are served; skipped where PyTorch is not installed."""

import json

import numpy as np
import pytest
from support.train.recipes import small_corpus, small_recipe, spoken

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402 - after the skip

from pipeline.errors import WeightsError  # noqa: E402
from pipeline.models.lm import delayed as served_delayed  # noqa: E402
from pipeline.train import codec, encode, export, language, verify  # noqa: E402
from pipeline.train.conversation.phrases import Exchange  # noqa: E402
from pipeline.train.networks.architecture import RECIPE, mimi_sizes, moshi_sizes  # noqa: E402
from pipeline.train.networks.convolution import CausalConv, CausalTransposed, ConvTrUpsample1d  # noqa: E402
from pipeline.train.networks.losses import SpectralLoss  # noqa: E402
from pipeline.train.networks.mimi import MimiNetwork  # noqa: E402
from pipeline.train.networks.moshi import MoshiNetwork, delayed  # noqa: E402
from pipeline.train.networks.quantizer import Codebook, ResidualQuantizer  # noqa: E402
from pipeline.train.recordings.bank import read_shards, write_shard  # noqa: E402
from pipeline.train.recordings.gathered import Recordings, phoneme_table  # noqa: E402
from pipeline.train.recordings.windows import Windows  # noqa: E402
from pipeline.train.runs.checkpoints import codec_of, fingerprint  # noqa: E402
from pipeline.train.runs.journal import Journal, learning_rate  # noqa: E402
from pipeline.train.synthesizers.voices import Voice  # noqa: E402
from pipeline.units import FRAME_SAMPLES  # noqa: E402


@pytest.fixture(autouse=True)
def on_one_thread_of_the_cpu(monkeypatch):
    """The same numbers everywhere, and no more of the machine than a test needs."""
    monkeypatch.setenv("PACKET_VOICE_DEVICE", "cpu")
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of every step, each for a moment; gives its corpus, recipe and folder."""
    root = tmp_path_factory.mktemp("train")
    corpus, recipe, out = small_corpus(root / "corpus"), small_recipe(root / "recipe"), root / "run"
    common = ["--corpus", str(corpus), "--out", str(out), "--recipe", str(recipe)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PACKET_VOICE_DEVICE", "cpu")
        patch.setattr(codec, "_FREE_STEPS", 2)
        patch.setattr(encode, "FILE_SESSIONS", 8)
        patch.setattr(encode, "_VALIDATION_SESSIONS", 8)
        patch.setattr(encode, "SESSION_FRAMES", 100)
        assert codec.main([*common, "--steps", "6", "--batch", "6", "--frames", "4"]) == 0
        few = ["--steps", "2", "--batch", "8", "--frames", "4", "--only", "encoder"]
        assert codec.main([*common, *few]) == 0
        assert encode.main([*common, "--sessions", "8"]) == 0
        assert language.main([*common, "--steps", "3", "--batch", "2"]) == 0
        assert (
            codec.main([*common, "--steps", "2", "--batch", "4", "--frames", "4", "--only", "decoder"]) == 0
        )
        to = ["--run", str(out), "--to", str(root / "served"), "--recipe", str(recipe)]
        assert export.main(["--corpus", str(corpus), *to]) == 0
    return corpus, recipe, out, root / "served"


def test_the_server_computes_what_the_trainer_computed(trained, capsys):
    """Codes, sound and logits of an exported run, by MLX and by PyTorch."""
    *_, out, served = trained
    assert verify.main(["--run", str(out), "--config", str(served)]) == 0
    figures = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert float(figures["same_codes"]) == 1
    assert float(figures["audio_logits"]) < 1e-3


@pytest.mark.parametrize("file", ["mimi.safetensors", "model.safetensors"])
def test_other_weights_are_noticed(trained, tmp_path, file):
    """A folder of another run is not taken for this one's."""
    *_, out, served = trained
    for path in served.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = load_file(served / file)
    name = "decoder.model.2.convtr.convtr.weight" if file.startswith("mimi") else "linears.1.weight"
    tensors[name] = tensors[name].flip(0) * 3 + 1
    save_file(tensors, tmp_path / file)
    with pytest.raises(WeightsError, match="something else"):
        verify.main(["--run", str(out), "--config", str(tmp_path)])


def test_training_the_decoder_changes_no_code(trained):
    """So that a language model's data stay what they were."""
    _, recipe, out, _ = trained
    device = torch.device("cpu")
    decoder = codec_of(out, mimi_sizes(recipe), device)
    (out / "decoder.pt").rename(out / "aside.pt")
    try:
        whole = codec_of(out, mimi_sizes(recipe), device)
    finally:
        (out / "aside.pt").rename(out / "decoder.pt")
    assert fingerprint(decoder) == fingerprint(whole)
    assert not torch.equal(
        decoder.decoder.model[0].conv["conv"].weight, whole.decoder.model[0].conv["conv"].weight
    )


def test_a_run_goes_on_where_it_was(tmp_path):
    """Parameters, optimizer and step, to the bit; a log line for each figure asked for."""
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    parts = {"model": model, "optimizer": optimizer}
    journal = Journal(tmp_path, "one", step=7)
    journal.save(parts)
    journal.log(loss=1.0)
    other = torch.nn.Linear(3, 2)
    again = Journal(tmp_path, "one")
    taken = {"model": other, "optimizer": torch.optim.AdamW(other.parameters())}
    assert again.resume(taken, torch.device("cpu"))
    assert again.step == 7
    assert torch.equal(other.weight, model.weight)
    assert json.loads((tmp_path / "one.jsonl").read_text())["loss"] == 1.0
    assert not Journal(tmp_path, "two").resume(taken, torch.device("cpu"))


def test_a_learning_rate_rises_and_falls():
    """From nearly nothing, to its peak, to nothing."""
    rates = [learning_rate(1e-3, step, step / 4000) for step in range(4000)]
    assert rates[0] < 1e-5
    assert max(rates) == 1e-3
    assert rates[-1] < 1e-5
    assert rates == sorted(rates[:2000]) + sorted(rates[2000:], reverse=True)


def test_delays_are_those_of_the_server(tmp_path):
    """A training step has the same inputs as a step of the server."""
    sizes = moshi_sizes(small_recipe(tmp_path))
    codes = np.random.default_rng(0).integers(0, 32, (2, 1 + sizes.n_q, 9))
    initial = np.array([sizes.text_card] + [sizes.card] * sizes.n_q)
    grid = delayed(torch.from_numpy(codes), sizes)
    wanted = served_delayed(codes, sizes.delays, initial)
    np.testing.assert_array_equal(grid.inputs.numpy(), wanted[:, :, :-1])
    targets = grid.targets.numpy()
    np.testing.assert_array_equal(targets[targets >= 0], wanted[:, :, 1:][targets >= 0])


@pytest.mark.parametrize("half", [False, True])
def test_a_transposed_convolution_has_the_right_gradient(half):
    """As PyTorch's own in float32; in bfloat16 its own may be wrong, which is why there is another."""
    layer = CausalTransposed(32, 16, 4)
    x = torch.randn(2, 32, 30, requires_grad=True)
    weights = torch.randn(2, 16, 120)
    (layer.convtr["convtr"](x)[..., :-4] * weights).sum().backward()
    wanted, x.grad = x.grad.clone(), None
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        made = layer(x)
    (made.float() * weights).sum().backward()
    alike = torch.nn.functional.cosine_similarity(x.grad.flatten(), wanted.flatten(), 0)
    assert alike > (0.999 if half else 0.999999)


def _passed(layer, x, sent_back, *, half):
    """What a layer gives, and the gradients of what it was given and of its weights."""
    x = x.clone().requires_grad_()
    layer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        y = layer(x)
    y.float().backward(sent_back(y.shape))
    return [y.detach().float(), x.grad, *(parameter.grad.clone() for parameter in layer.parameters())]


@pytest.mark.parametrize("end", ["encoder", "decoder"])
def test_fewer_bits_are_the_same_layer(end):
    """In bfloat16, layers of the shipped sizes compute what they do in float32, forwards and back."""
    network = MimiNetwork(mimi_sizes(RECIPE))
    x = torch.randn(2, 1, 4 * FRAME_SAMPLES) if end == "encoder" else torch.randn(2, network.sizes.dim, 8)
    for index, layer in enumerate(getattr(network, end).model):
        generator = torch.Generator().manual_seed(index)
        back = torch.randn(layer(x).shape, generator=generator)
        whole = _passed(layer, x, back.view, half=False)
        halved = _passed(layer, x, back.view, half=True)
        for one, other in zip(whole, halved, strict=True):
            assert (one - other).norm() <= 0.02 * one.norm(), f"{end} {index}: {type(layer).__name__}"
        x = whole[0] / whole[0].std()


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(("channels", "stride"), [(16, 4), (32, 5), (3, 1)])
def test_a_strided_convolution_is_pytorchs_own(channels, stride, half):
    """The product that stands for it gives what PyTorch's float32 convolution gives."""
    layer = CausalConv(channels, 2 * channels, 2 * stride, stride=stride)
    x = torch.randn(2, channels, 40 * stride)
    inner = layer.conv["conv"]
    wanted = inner(torch.nn.functional.pad(x, (layer.past, 0)))
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        found = layer(x).float()
    assert (found - wanted).norm() <= (0.01 if half else 1e-5) * wanted.norm()


def test_an_upsampling_convolution_is_pytorchs_own():
    """In every channel."""
    layer = ConvTrUpsample1d(8, 2)
    x = torch.randn(2, 8, 5)
    torch.testing.assert_close(layer(x), layer.convtr["convtr"]["convtr"](x)[..., :-2])


def test_no_output_depends_on_later_input(tmp_path):
    """Neither codes nor logits of a frame change with what comes after it."""
    recipe = small_recipe(tmp_path)
    mimi = MimiNetwork(mimi_sizes(recipe))
    sound = torch.randn(1, 1, 8 * FRAME_SAMPLES) * 0.1
    later = sound.clone()
    later[..., 5 * FRAME_SAMPLES :] = 0
    torch.testing.assert_close(mimi.features(sound)[:, :5], mimi.features(later)[:, :5])
    moshi = MoshiNetwork(moshi_sizes(recipe))
    given = torch.randint(0, 32, (1, 1 + moshi.sizes.n_q, 12))
    changed = given.clone()
    changed[..., 7:] = 1
    torch.testing.assert_close(moshi.context(given)[:, :7], moshi.context(changed)[:, :7])


def test_levels_begin_one_after_another(tmp_path):
    """Each with what the ones before leave over of a batch that is new to them: none begins with nothing."""
    sizes = mimi_sizes(small_recipe(tmp_path))
    quantizer = ResidualQuantizer(3, sizes)
    levels = torch.full((256,), 3)
    for _ in range(3):
        quantizer(torch.randn(256, sizes.dim), levels, learn=True)
    for layer in quantizer.vq["layers"]:
        assert len(torch.unique(layer["_codebook"].centroids, dim=0)) > sizes.bins // 2


def test_an_unused_centroid_is_moved():
    """It is reset to some of the data, so that every entry is used."""
    book = Codebook(8, 2)
    points = torch.randn(400, 2)
    book.update(points, book.nearest(points))
    book.embedding_sum[0] = 1e3
    for _ in range(300):
        book.update(points, book.nearest(points))
    assert len(torch.unique(book.nearest(points))) == 8


def test_a_centroid_converges_to_the_mean_of_its_vectors():
    """Running means: with still data, the means themselves."""
    book = Codebook(2, 1)
    points = torch.tensor([[-1.0], [-1.2], [3.0], [3.4]])
    book.embedding_sum.copy_(torch.tensor([[-1.0], [1.0]]))
    book.cluster_usage.fill_(1)
    book._initialized.fill_(1)
    for _ in range(2000):
        book.update(points, book.nearest(points))
    torch.testing.assert_close(book.centroids, torch.tensor([[-1.1], [3.2]]), atol=1e-3, rtol=0)


def test_a_spectral_loss_grows_with_the_difference():
    """Nothing between equals; more, the louder the noise."""
    loss = SpectralLoss()
    sound = torch.randn(2, 9600) * 0.1
    other = [loss(sound + level * torch.randn(2, 9600), sound).item() for level in (0, 0.01, 0.1)]
    assert other[0] == 0
    assert other == sorted(other)


def test_a_window_is_what_was_recorded(tmp_path):
    """Silence before and after; the phonemes of the same instants; the agent on the grid of frames."""
    corpus = small_corpus(tmp_path)
    users = read_shards(corpus, "train-")
    table = phoneme_table(users)
    recordings = Recordings(users, table, torch.device("cpu"))
    which = torch.tensor([3])
    window = recordings.window(which, torch.tensor([-FRAME_SAMPLES]), 6 * FRAME_SAMPLES)[0].numpy()
    recorded = users[0].recording(3)[: 5 * FRAME_SAMPLES]
    assert not window[:FRAME_SAMPLES].any()
    np.testing.assert_allclose(window[FRAME_SAMPLES:][: len(recorded)], recorded, atol=1e-6)
    phonemes = recordings.phonemes(which, torch.tensor([-FRAME_SAMPLES]), 6)[0]
    assert (phonemes[0] == 0).all()
    first = users[0].utterances[3].text[0]
    assert table[int(phonemes[1, 1])] == first
    agent = Recordings(read_shards(corpus, "agent"), table, torch.device("cpu"))
    batch = Windows(recordings, agent, 6, 10, (2, 4)).draw()
    torch.testing.assert_close(batch.inputs[batch.agent[:, 0]], batch.targets[batch.agent[:, 0]])
    assert set(batch.levels.tolist()) <= {2, 4}


def test_a_sentence_with_a_rare_word_is_drawn_often(tmp_path):
    """Hundreds of sums have the same few words: by number alone, small talk would hardly be trained."""
    sums = [f"one plus {number} is two" for number in ("one", "two", "three")] * 33
    voice = Voice("a tone", 100, 50)
    said = [(Exchange("unknown", text, ""), voice, spoken(text)) for text in (*sums, "nice to meet you")]
    write_shard(tmp_path, "agent", said)
    agent = read_shards(tmp_path, "agent")
    recordings = Recordings(agent, phoneme_table(agent), torch.device("cpu"))
    torch.manual_seed(1)
    talk = (recordings.draw_rare(1000) == len(sums)).float().mean()
    assert 0.1 < talk < 0.4
    assert (recordings.draw(1000) == len(sums)).float().mean() < 0.05
