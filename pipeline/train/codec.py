"""`python -m pipeline.train.codec`: train the codec on windows of the corpus.

    python -m pipeline.train.codec --corpus build/train/corpus --out build/train/run --steps 20000

Users are encoded with room acoustics and noise and reconstructed without them; the agent is encoded as
it is. At inference only the agent is decoded, from the first codebooks, so most windows are decoded
from those alone. Phonemes are predicted from the first codebook as an auxiliary task.
`--only decoder` continues from a trained codec with its encoder and quantizer frozen, beside or after
the training of a language model. `--only encoder` continues with its decoder and codebooks frozen:
the users' codes are never decoded, so they need to represent only the words. The encoder then adapts
to voices that the codec was not trained on, and the agent's codes stay what they were. `--only voice`
teaches a new voice of the agent: its decoder, and an encoder that encodes the agent alone, so that the
codebooks and the users' codes stay what they were.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from pipeline.system.outputs import write_whole
from pipeline.train.networks.adversary import AdversarialLoss
from pipeline.train.networks.architecture import add_recipe_argument, mimi_sizes, moshi_sizes
from pipeline.train.networks.losses import SpectralLoss
from pipeline.train.networks.mimi import Coded, MimiNetwork
from pipeline.train.recordings.bank import NATURAL, Shard, read_shard, read_shards
from pipeline.train.recordings.gathered import SOUNDS_PER_FRAME, Recordings, phoneme_table
from pipeline.train.recordings.windows import DECODING, ENCODING, SPEAKING, WHOLE, Batch, Windows
from pipeline.train.runs import device as machine
from pipeline.train.runs.checkpoints import CODEC, DECODER, ENCODER, VOICE, latest, take
from pipeline.train.runs.command import run
from pipeline.train.runs.journal import Journal, add_run_arguments

_FREE_STEPS: Final = 300  # before anything is quantized: centroids are then put where features are
_HEADS_ALONE_STEPS: Final = 200  # untrained heads would lead a trained encoder astray
_WEIGHTS: Final = {
    "spectral": 1.0,
    "wave": 4.0,
    "phonemes": 1.0,
    "phonemes_all": 1.0,
    "distillation": 1.0,
    "commitment": 0.25,
    "deceived": 0.3,
    "matching": 0.6,
}
_CLIP: Final = 1.0
_PHONEMES: Final = "phonemes.json"


class PhonemeHead(nn.Module):
    """Predicts the four phonemes of a frame from the first codebook; used in training only."""

    def __init__(self, dim: int, phonemes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, SOUNDS_PER_FRAME * phonemes)

    def forward(self, first: Tensor) -> Tensor:
        """`[B, T, D]` → `[B, T, 4, phonemes]`."""
        return self.linear(first).unflatten(-1, (SOUNDS_PER_FRAME, -1))


def losses(batch: Batch, coded: Coded, head: PhonemeHead, spectral: SpectralLoss) -> dict[str, Tensor]:
    """Each part of the loss, unweighted, and the share of phonemes that was predicted."""
    reconstructed = coded.sound[:, 0].float()
    apart = (reconstructed - batch.targets).abs() * batch.agent
    return {
        "spectral": spectral(reconstructed, batch.targets),
        "wave": apart.sum() / (batch.agent.sum() * reconstructed.shape[1]).clamp(min=1),
        "commitment": coded.commitment,
        **phoneme_losses(batch, coded.first, head),
    }


def phoneme_losses(batch: Batch, features: Tensor, head: PhonemeHead, of: str = "") -> dict[str, Tensor]:
    """Phonemes predicted from `features [B, T, D]`: cross entropy, and the share that is right."""
    logits = head(features.float())
    known = batch.phonemes >= 0
    sounding = batch.phonemes > 0
    return {
        f"phonemes{of}": functional.cross_entropy(logits[known], batch.phonemes[known]),
        f"phonemes_right{of}": (logits[sounding].argmax(-1) == batch.phonemes[sounding]).float().mean(),
    }


def encoder_losses(
    batch: Batch,
    model: MimiNetwork,
    kept: MimiNetwork,
    heads: Sequence[PhonemeHead],
    *,
    heads_alone: bool = False,
) -> tuple[dict[str, Tensor], Tensor]:
    """Each part of the loss of an encoder by itself, unweighted; and the codes `[B, K, T]`.

    Phonemes are predicted from the first codebook and from all; the agent's features are
    distilled from the `kept` codec. `heads_alone`: without gradients of the encoder.
    """
    with torch.set_grad_enabled(not heads_alone):
        coded = model.coded_features(batch.inputs[:, None], learn=False)
    agent = batch.inputs[batch.agent[:, 0]]
    parts = {"commitment": coded.commitment}
    if len(agent):
        with torch.no_grad():
            before = kept.features(agent[:, None])
        now = coded.features[batch.agent[:, 0]].float()
        parts["distillation"] = functional.mse_loss(now, before) / before.var().clamp(min=1e-6)
    parts |= phoneme_losses(batch, coded.first, heads[0]) | phoneme_losses(batch, coded.all, heads[1], "_all")
    return parts, coded.codes


_ENCODER_PARTS: Final = ("encoder", "encoder_transformer", "downsample")


def _trainable(model: MimiNetwork, only: str | None) -> list[nn.Parameter]:
    """The trainable parameters: of the whole codec, of the decoder, of the encoder, or of both."""
    if only is not None:
        encoding = {parameter for name in _ENCODER_PARTS for parameter in getattr(model, name).parameters()}
        encoding |= {part.input_proj.weight for part in model.quantizer.values()}
        codebooks = set(model.quantizer.parameters()) - encoding
        for parameter in model.parameters():
            encodes = parameter in encoding
            decodes = not encodes and parameter not in codebooks
            is_trained = encodes if only == "encoder" else decodes or (encodes and only == "voice")
            parameter.requires_grad_(requires_grad=is_trained)
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the arguments."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.train.codec", description="Train the codec.")
    add_run_arguments(parser, batch=16, rate=6e-4)
    add_recipe_argument(parser)
    parser.add_argument("--frames", type=int, default=16, help="80 ms frames a window")
    parser.add_argument("--shards", type=int, default=0, help="training shards to keep in memory; 0: all")
    parser.add_argument("--only", choices=("decoder", "encoder", "voice"))
    parser.add_argument(
        "--adversary", action="store_true", help="also train against spectrogram discriminators"
    )
    parser.add_argument("--compile", action="store_true", help="compile the networks first (pays on a card)")
    return parser.parse_args(argv)


class Trainer:
    """The codec, its auxiliary networks and losses, and the state of the run."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.device = machine.choose()
        self.sizes = mimi_sizes(arguments.recipe)
        self.table = self._phonemes()
        torch.manual_seed(arguments.seed)
        self.model = MimiNetwork(self.sizes).to(self.device)
        self.head = PhonemeHead(self.sizes.dim, len(self.table)).to(self.device)
        self.spectral = SpectralLoss().to(self.device)
        self.parts: dict[str, nn.Module | Optimizer] = {"model": self.model, "head": self.head}
        self.trained = [*_trainable(self.model, arguments.only), *self.head.parameters()]
        if arguments.only == "encoder":
            # The users' encoder, also where the agent has one of its own.
            self.kept = MimiNetwork(self.sizes).to(self.device)
            take(latest(arguments.out, CODEC), {"model": self.kept}, self.device)
            self.kept.train(mode=False)
            self.head_of_all = PhonemeHead(self.sizes.dim, len(self.table)).to(self.device)
            self.parts["head_of_all"] = self.head_of_all
            self.trained += self.head_of_all.parameters()
        self.optimizer = torch.optim.AdamW(self.trained, arguments.rate, betas=(0.8, 0.99), weight_decay=1e-3)
        self.parts["optimizer"] = self.optimizer
        self.adversarial = AdversarialLoss(arguments.rate, self.device) if arguments.adversary else None
        if self.adversarial is not None:
            self.parts |= {
                "adversary": self.adversarial.discriminators,
                "judging": self.adversarial.optimizer,
            }
        names = {"decoder": DECODER, "encoder": ENCODER, "voice": VOICE, None: CODEC}
        before = {"decoder": (VOICE, CODEC), "voice": (DECODER, CODEC)}
        self.journal = Journal(arguments.out, names[arguments.only], arguments.minutes, arguments.finish)
        if self.journal.resume(self.parts, self.device):
            torch.manual_seed(arguments.seed + self.journal.step)  # new data, not the first again
        elif arguments.only == "encoder":
            self.model.load_state_dict(self.kept.state_dict())
        elif arguments.only:
            take(latest(arguments.out, *before[arguments.only]), {"model": self.model}, self.device)
        if arguments.compile:
            for part in (self.model.encoder, self.model.decoder):
                part.compile()
        self._natural = -1
        self.refresh()

    def _phonemes(self) -> list[str]:
        """The phonemes of this run, fixed when it began: a voice recorded later may have others."""
        path = self.arguments.out / _PHONEMES
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(phoneme_table(self._shards())).encode())
        table: list[str] = json.loads(path.read_text(encoding="utf-8"))
        return table

    def _shards(self) -> list[Shard]:
        shards = read_shards(self.arguments.corpus, "train-")[: self.arguments.shards or None]
        natural = self.arguments.corpus.glob(f"{NATURAL}*.json")
        return [*shards, *(read_shard(self.arguments.corpus, path.stem) for path in sorted(natural))]

    def refresh(self) -> None:
        """Load natural voices that were recorded meanwhile."""
        shards = self._shards()
        natural = sum(shard.name.startswith(NATURAL) for shard in shards)
        if natural == self._natural:
            return
        self._natural = natural
        shares = {"encoder": ENCODING, "decoder": DECODING, "voice": SPEAKING, None: WHOLE}
        self.windows = Windows(
            Recordings(shards, self.table, self.device),
            Recordings(read_shards(self.arguments.corpus, "agent"), self.table, self.device),
            self.arguments.frames,
            self.arguments.batch,
            (moshi_sizes(self.arguments.recipe).dep_q, self.sizes.codebooks),
            shares=shares[self.arguments.only],
        )

    def step(self) -> Tensor:
        """One step; gives the codes of its batch."""
        frozen = self.arguments.only is not None
        batch = self.windows.draw()
        with machine.half(self.device):
            if self.arguments.only == "encoder":
                heads, heads_alone = (self.head, self.head_of_all), self.journal.step < _HEADS_ALONE_STEPS
                parts, codes = encoder_losses(batch, self.model, self.kept, heads, heads_alone=heads_alone)
            else:
                coded: Coded = self.model(
                    batch.inputs[:, None],
                    batch.levels,
                    quantize=frozen or self.journal.step >= _FREE_STEPS,
                    learn=not frozen,
                )
                parts, codes = losses(batch, coded, self.head, self.spectral), coded.codes
        if self.adversarial is not None:
            reconstructed = coded.sound[:, 0].float()
            self.adversarial.step(reconstructed, batch.targets)
            parts |= self.adversarial.losses(reconstructed, batch.targets)
        weighted = [_WEIGHTS[name] * part for name, part in parts.items() if name in _WEIGHTS]
        self.journal.schedule(self.optimizer, self.arguments.rate, self.arguments.steps)
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(weighted).sum().backward()
        nn.utils.clip_grad_norm_(self.trained, _CLIP)
        self.optimizer.step()
        self.journal.step += 1
        self.journal.add(parts)
        return codes


def train(arguments: argparse.Namespace) -> None:
    """Train until the number of steps or the time limit is reached."""
    trainer = Trainer(arguments)
    journal = trainer.journal
    while journal.step < arguments.steps and not journal.out_of_time:
        codes = trainer.step()
        if journal.reports:
            used = [torch.unique(each).numel() for each in codes.unbind(1)]
            journal.log(**journal.means(), codes_used=used)
            trainer.refresh()
        journal.save_in_time(trainer.parts)
    journal.save(trainer.parts)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives its exit code."""
    return run(partial(train, parse(argv)))


if __name__ == "__main__":
    sys.exit(main())
