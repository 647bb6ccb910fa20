"""`python -m pipeline.train.start`: begin a run with the weights of an exported checkpoint, not with none.

    python -m pipeline.train.start --corpus build/train/corpus --checkpoint configs/tiny --out build/train/run

The codec and the language model go on where they were when they were exported, without the state of
their optimizers and without the heads that help in training alone. The agent may have other words
now: the rows of a word's token are those that it had, or, if it is new, those of the same word
without capital and punctuation, or else of any word, with noise.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import sentencepiece
import torch
from safetensors.torch import load_file
from torch import Tensor

from pipeline.system.outputs import OutputFile
from pipeline.train.conversation.phrases import plain
from pipeline.train.conversation.vocabulary import FILE, PADDING, pieces, word_numbers
from pipeline.train.networks.architecture import add_recipe_argument, mimi_sizes, moshi_sizes
from pipeline.train.networks.mimi import MimiNetwork
from pipeline.train.networks.moshi import MoshiNetwork
from pipeline.train.runs.checkpoints import CODEC, LANGUAGE, RunError
from pipeline.train.runs.command import run

_TEXT_ROWS = ("text_emb.weight", "depformer_text_emb.weight", "text_linear.weight")
_NOISE = 0.3  # of a row's deviation, for words that never were


def renumbered(rows: Tensor, old: dict[str, int], new: dict[str, int], text_card: int) -> Tensor:
    """`rows [old tokens, D]` in the order of the new tokens; the initial token, if any, stays last."""
    before = len(old) + PADDING + 1
    base = rows[PADDING + 1 : before]
    renumbered_rows = base.mean(0) + _NOISE * base.std() * torch.randn(text_card, rows.shape[1])
    renumbered_rows[: PADDING + 1] = rows[: PADDING + 1]
    by_sound = {plain(word): number for word, number in old.items()}
    for word, number in new.items():
        source = old.get(word, by_sound.get(plain(word)))
        if source is not None:
            renumbered_rows[number] = rows[source]
    return torch.cat([renumbered_rows, rows[before:]])


def start(arguments: argparse.Namespace) -> None:
    """Write the two checkpoints.

    Raises:
        RunError: the run has begun already.
    """
    for name in (CODEC, LANGUAGE):
        if (arguments.out / f"{name}.pt").exists():
            raise RunError(f"{arguments.out} has a {name}.pt already: the run has begun")
    torch.manual_seed(arguments.seed)
    old = pieces(sentencepiece.SentencePieceProcessor(model_file=str(arguments.checkpoint / FILE)))
    new = word_numbers(arguments.corpus)
    sizes = moshi_sizes(arguments.recipe)
    tensors = load_file(arguments.checkpoint / "model.safetensors")
    for name in _TEXT_ROWS:
        tensors[name] = renumbered(tensors[name].float(), old, new, sizes.text_card)
    codec, language = MimiNetwork(mimi_sizes(arguments.recipe)), MoshiNetwork(sizes)
    codec.load_published(load_file(arguments.checkpoint / "mimi.safetensors"))
    language.load_published(tensors)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, model in ((CODEC, codec), (LANGUAGE, language)):
        with OutputFile(arguments.out / f"{name}.pt") as output:
            torch.save({"step": 0, "parts": {"model": model.state_dict()}}, output.path)
            output.commit()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.train.start", description="Begin a run with trained weights."
    )
    parser.add_argument("--corpus", metavar="DIR", type=Path, required=True)
    parser.add_argument("--checkpoint", metavar="DIR", type=Path, required=True, help="an exported folder")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="the run's folder")
    add_recipe_argument(parser)
    parser.add_argument("--seed", type=int, default=1)
    return run(partial(start, parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
