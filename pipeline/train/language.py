"""`python -m pipeline.train.language`: train the language model on encoded conversations.

    python -m pipeline.train.language --corpus build/train/corpus --out build/train/run --steps 20000

Text is the agent's words alone: an answer to a sum begins with its operands, so it repeats
the recognized question. Recognition is trained by an auxiliary head that predicts the user's words as
they end, and that is discarded afterwards; arithmetic by text-only sums (`drills`). Codes of the user
are masked at random, to avoid overfitting to a few voices.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from pipeline.train.conversation.diction import Diction
from pipeline.train.conversation.drills import Amount, Drills
from pipeline.train.conversation.encoded import Sessions
from pipeline.train.conversation.phrases import understood_words
from pipeline.train.conversation.sessions import NO_RESULT
from pipeline.train.conversation.vocabulary import word_numbers
from pipeline.train.encode import VALIDATION
from pipeline.train.networks.architecture import MoshiSizes, add_recipe_argument, mimi_sizes, moshi_sizes
from pipeline.train.networks.moshi import Delayed, MoshiNetwork, delayed
from pipeline.train.runs import device as machine
from pipeline.train.runs.checkpoints import LANGUAGE, codec_of, codes_folder
from pipeline.train.runs.command import run
from pipeline.train.runs.journal import Journal, add_run_arguments

_WEIGHTS: Final = {
    "words": 1.0,
    "padding": 1.0,
    "speech": 1.0,
    "silence": 0.2,
    "heard": 1.0,
    "unheard": 0.5,
    "result": 0.25,
    "drill": 1.0,
    "amount": 1.0,
}
_SILENT_STEPS: Final = 256  # of a batch that the depth transformer is trained on
_MASKED: Final = 0.2  # of the user's codes beyond the first codebook
_MASKED_FIRST: Final = 0.08
_DROP: Final = 0.1
_APART_SHARE: Final = 0.375  # of sessions
_CLIP: Final = 1.0
_TEST_EVERY: Final = 250  # steps


class Heads(nn.Module):
    """Auxiliary predictions from the model's state: the user's words and results; used in training only."""

    def __init__(self, dim: int, words: int) -> None:
        super().__init__()
        self.heard = nn.Linear(dim, words)  # this name is part of the checkpoint format
        self.amount = Amount(dim)


def mask_user_codes(inputs: Tensor, sizes: MoshiSizes) -> Tensor:
    """Replace some of the user's codes by −1, no input."""
    drawn = torch.rand(inputs.shape, device=inputs.device)
    limits = torch.zeros(inputs.shape[1], device=inputs.device)
    limits[1 + sizes.dep_q] = _MASKED_FIRST
    limits[2 + sizes.dep_q :] = _MASKED
    return torch.where(drawn < limits[:, None], -1, inputs)


def cross_text(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give some sessions the text of another one: `apart [B]` bool, and all that depends on the text.

    Where text, user audio and agent audio are of three different sums, the result has to follow from
    the text. Without this, results are memorized from the audio, sentence by sentence, and the model
    does not generalize to unseen sentences.
    """
    count = len(batch["codes"])
    apart = torch.arange(count, device=batch["codes"].device) < round(_APART_SHARE * count)
    text = batch["codes"][:, :1]
    moved = {name: batch[name].roll(1, 0) for name in ("speaking", "results")}
    written = torch.where(apart[:, None, None], text.roll(1, 0), text)
    return batch | {
        "apart": apart,
        **{name: torch.cat([written, batch[name][:, 1:]], 1) for name in ("codes", "inputs")},
        **{name: torch.where(apart[:, None], other, batch[name]) for name, other in moved.items()},
    }


def respoken(batch: dict[str, Tensor], diction: Diction, sizes: MoshiSizes) -> dict[str, Tensor]:
    """`inputs`: the sessions' codes, in some of which the agent's words come from other sentences.

    Those, `respoken [B]`, have no audio loss: their targets do not continue their inputs.
    """
    codes, users = batch["codes"], 1 + sizes.dep_q
    replaced = diction.respoken(codes[:, 0], codes[:, 1:users], batch["speaking"])
    count = torch.arange(len(codes), device=codes.device)
    some = (count % 2 == 0) & (count < len(codes) - 1)  # never the last, which is not apart either
    replaced = torch.where(some[:, None, None], replaced, codes[:, 1:users])
    return batch | {"respoken": some, "inputs": torch.cat([codes[:, :1], replaced, codes[:, users:]], 1)}


def after(word: int, text: Tensor, speaking: Tensor) -> Tensor:
    """`text` and `speaking [B, T]` → where, in the same answer, `word` has been written before."""
    begins = speaking & ~functional.pad(speaking[:, :-1], (1, 0))
    answer = begins.cumsum(1)
    last = torch.where(text == word, answer, 0).cummax(1).values
    before = functional.pad(last[:, :-1], (1, 0))
    return speaking & (before == answer)


def _mean(values: Tensor, where: Tensor) -> Tensor:
    return (values * where).sum() / where.sum().clamp(min=1)


def _audio(
    model: MoshiNetwork, context: Tensor, grid: Delayed, speaking: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Cross entropies `[N, dep_q]` of some steps' codes; which of them count; which of those are speech."""
    sizes = model.sizes
    late = max(sizes.delays)  # steps after a frame in which codes of it are still due
    active = functional.max_pool1d(functional.pad(speaking[:, None].float(), (late, 0)), late + 1, 1)
    active = active[:, 0].flatten() > 0
    silent = (~active).nonzero()[:, 0]
    chosen = silent[torch.randint(len(silent), (min(_SILENT_STEPS, len(silent)),), device=silent.device)]
    steps = torch.cat([active.nonzero()[:, 0], chosen])
    targets = grid.targets.transpose(1, 2).flatten(0, 1)[steps]  # [N, 1 + n_q]
    codes = targets[:, 1 : 1 + sizes.dep_q]
    logits = model.audio_logits(context.flatten(0, 1)[steps], targets[:, : sizes.dep_q].clamp(min=0)).float()
    entropies = functional.cross_entropy(logits.transpose(1, 2), codes.clamp(min=0), reduction="none")
    known = (codes >= 0).float()
    return entropies, known, active[steps][:, None] * known


def losses(model: MoshiNetwork, heads: Heads, batch: dict[str, Tensor], equals: int) -> dict[str, Tensor]:
    """Each part of the loss, unweighted, and accuracies; `equals` is the token of "is"."""
    sizes = model.sizes
    batch = cross_text(batch)
    grid = delayed(batch["codes"], sizes)
    inputs = delayed(batch["inputs"], sizes).inputs
    context = model.context(mask_user_codes(inputs, sizes), _DROP)
    text = grid.targets[:, 0]
    logits = model.text_linear(context).float()
    each = functional.cross_entropy(logits.transpose(1, 2), text, reduction="none")
    spoken = text != sizes.padding
    user_word_losses = functional.cross_entropy(
        heads.heard(context).float().transpose(1, 2), batch["user_words"], reduction="none"
    )
    ended = batch["user_words"] > 0
    after_equals = after(equals, text, batch["speaking"])
    predictable = ~batch["apart"][:, None] & ~batch["slips"]  # the text follows from the audio
    known_result = after_equals & (batch["results"] > NO_RESULT)
    together = (~batch["apart"] & ~batch["respoken"]).nonzero()[:, 0]
    of_code, known, loud = _audio(
        model,
        context[together],
        Delayed(grid.inputs[together], grid.targets[together]),
        batch["speaking"][together],
    )
    return {
        "words": _mean(each, spoken & (predictable | after_equals)),
        "padding": _mean(each, ~spoken & predictable),
        "speech": _mean(of_code, loud),
        "silence": _mean(of_code, known - loud),
        "heard": _mean(user_word_losses, ended),
        "unheard": _mean(user_word_losses, ~ended),
        "result": heads.amount.loss(context[known_result], batch["results"][known_result]),
        "words_right": _mean((logits.argmax(-1) == text).float(), spoken & predictable),
        "apart_right": _mean((logits.argmax(-1) == text).float(), spoken & after_equals & ~predictable),
    }


def drill_losses(model: MoshiNetwork, heads: Heads, drills: Drills, count: int) -> dict[str, Tensor]:
    """Each part of the loss of text-only sums, unweighted, and the accuracy."""
    drill = drills.draw(count)
    context = model.context(drills.inputs(drill), _DROP)
    logits, targets = model.text_linear(context[drill.asked]).float(), drill.text[drill.asked]
    return {
        "drill": functional.cross_entropy(logits, targets),
        "amount": heads.amount.loss(context[drill.known], drill.results[drill.known]),
        "drills_right": (logits.argmax(-1) == targets).float().mean(),
    }


@torch.no_grad()
def results_right(model: MoshiNetwork, sessions: Sessions, numbers: dict[str, int]) -> dict[str, float]:
    """Teacher-forced accuracy of words in held-out sessions, but for the first of answers to other people.

    `held_out_results`: of the first words after "is" alone, which cannot be recognized from the audio.
    """
    model.train(mode=False)
    right = words = results = results_good = 0.0
    count = len(sessions.rows["text"])
    for start in range(0, count, 32):
        batch = sessions.of(torch.arange(start, min(start + 32, count), device=sessions.device))
        grid = delayed(batch["codes"], model.sizes)
        predicted = model.text_linear(model.context(grid.inputs)).argmax(-1)
        text = grid.targets[:, 0]
        spoken = text != model.sizes.padding
        follows = spoken & ~batch["slips"]
        right += (predicted == text)[follows].sum().item()
        words += follows.sum().item()
        before = torch.zeros_like(text)
        for row, line in enumerate(text.tolist()):
            last = 0
            for frame, token in enumerate(line):
                before[row, frame] = last
                last = token if token != model.sizes.padding else last
        result = spoken & (before == numbers["is"])
        results += result.sum().item()
        results_good += (predicted == text)[result].sum().item()
    model.train(mode=True)
    return {"held_out_words": right / max(words, 1), "held_out_results": results_good / max(results, 1)}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.train.language", description="Train the language model."
    )
    add_run_arguments(parser, batch=8, rate=1e-3)
    add_recipe_argument(parser)
    parser.add_argument(
        "--drills", type=float, default=2.5, help="written sums a session (default 2.5; fewer once learnt)"
    )
    parser.add_argument("--decay", type=float, default=0.1, help="weight decay")
    parser.add_argument("--compile", action="store_true", help="compile the networks first (pays on a card)")
    return parser.parse_args(argv)


def train(arguments: argparse.Namespace) -> None:
    """Train until the number of steps or the time limit is reached."""
    device = machine.choose()
    sizes = moshi_sizes(arguments.recipe)
    numbers = word_numbers(arguments.corpus)
    codec = mimi_sizes(arguments.recipe)
    folder = codes_folder(
        arguments.out,
        codec_of(arguments.out, codec, device),
        codec_of(arguments.out, codec, device, agent=True),
    )
    sessions = Sessions(folder, "train-*.npz", device)
    held_out = Sessions(folder, f"{VALIDATION}.npz", device)
    held_out.refresh()
    drills = Drills(numbers, sizes, device)
    torch.manual_seed(arguments.seed)
    model = MoshiNetwork(sizes).to(device)
    heads = Heads(sizes.transformer.dim, len(understood_words()) + 2).to(device)
    matrices = [p for p in (*model.parameters(), *heads.parameters()) if p.dim() > 1]
    vectors = [p for p in (*model.parameters(), *heads.parameters()) if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": arguments.decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=arguments.rate,
        betas=(0.9, 0.98),
    )
    parts: dict[str, nn.Module | Optimizer] = {"model": model, "heads": heads, "optimizer": optimizer}
    journal = Journal(arguments.out, LANGUAGE, arguments.minutes, arguments.finish)
    if journal.resume(parts, device):
        torch.manual_seed(arguments.seed + journal.step)
        optimizer.param_groups[0]["weight_decay"] = arguments.decay  # and not what it was then
    if arguments.compile:
        for layer in (*model.layers, *model.depth_layers):
            layer.compile()
    while journal.step < arguments.steps and not journal.out_of_time:
        if (journal.step % 100 == 0 or not sessions.names) and sessions.refresh():
            diction = Diction(sessions.rows["text"], sessions.rows["agent"], sessions.rows["speaking"])
        journal.schedule(optimizer, arguments.rate, arguments.steps)
        batch = respoken(sessions.draw(arguments.batch), diction, sizes)
        with machine.half(device):
            parts_of_loss = losses(model, heads, batch, numbers["is"])
            sums = max(1, round(arguments.drills * arguments.batch))
            parts_of_loss |= drill_losses(model, heads, drills, sums)
        loss = sum(
            (weight * parts_of_loss[name] for name, weight in _WEIGHTS.items()),
            torch.zeros((), device=device),
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_((*matrices, *vectors), _CLIP)
        optimizer.step()
        journal.step += 1
        journal.add(parts_of_loss)
        if journal.reports:
            right = results_right(model, held_out, numbers) if journal.step % _TEST_EVERY == 0 else {}
            journal.log(**journal.means(), **right, sessions=len(sessions.rows["text"]))
        journal.save_in_time(parts)
    journal.save(parts)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives its exit code."""
    return run(partial(train, parse(argv)))


if __name__ == "__main__":
    sys.exit(main())
