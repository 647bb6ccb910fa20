"""The three stages of one checkpoint, each made on whichever thread asks for it.

The encoder's and the decoder's threads share one Mimi: its weights are evaluated when it
is loaded, and evaluated arrays belong to no thread.
"""

import hashlib
import threading
from functools import cached_property, partial
from typing import TYPE_CHECKING

import msgspec

from pipeline.backend import ALONE, Ranks, divide_cores, prepare
from pipeline.config import Config, Settings
from pipeline.models.bundle import Bundle, open_bundle
from pipeline.models.checkpoint.files import shard_paths
from pipeline.models.checkpoint.safetensors_header import read_header
from pipeline.models.lm import LmModel
from pipeline.models.memory import MemoryNeeds, memory_needs, require_room
from pipeline.models.mimi import Mimi
from pipeline.models.sharding import Member, Share
from pipeline.stages.batch import bucket_widths
from pipeline.stages.decoder import DecoderStage
from pipeline.stages.encoder import EncoderStage
from pipeline.stages.stepper import StepperStage
from pipeline.stages.tensor_parallel.collective import Lead, Rounds
from pipeline.stages.tensor_parallel.follower import Follower
from pipeline.stages.tensor_parallel.leader import Leader
from pipeline.stages.tensor_parallel.messages import Form
from pipeline.stages.text import SentencePiece, Spelling, TokenIds, UtteranceRules
from pipeline.units import FRAME_MS
from pipeline.values import ModelCard

if TYPE_CHECKING:  # `pipeline.models` has to come first
    import mlx.core as mx

SMALL_LANES = 16  # lanes.max, unset, of a model that leaves room for many
LARGE_PARAMETERS = 10**9  # from here on one session is what most machines can hold
STREAMED_PARAMETERS = 25 * 10**6  # 100 MB in float32: from here on no cache holds them from step to step


class Chain:
    """Encoder, stepper and decoder for `lanes` sessions; loading is left to their threads."""

    def __init__(self, bundle: Bundle, settings: Settings, share: Share | None = None) -> None:
        """Prepare to load `bundle`, or a `share` of its language model.

        The tokenizer is read at once, because its errors belong to the start.

        Raises:
            WeightsError: the tokenizer is no SentencePiece model, or has another vocabulary.
        """
        self.bundle = bundle
        self.share = share
        large = bundle.lm_parameters >= LARGE_PARAMETERS
        self.lanes = settings.lanes.max or (1 if large else SMALL_LANES)
        self.spelling: Spelling = (
            SentencePiece(bundle.tokenizer, bundle.lm.text_card) if bundle.tokenizer else TokenIds()
        )
        self._rules = UtteranceRules(
            padding=frozenset({bundle.lm.existing_text_padding_id, bundle.lm.existing_text_end_padding_id}),
            padding_run=settings.text.final_after_padding,
            max_steps=round(settings.text.final_after_s * 1000 / FRAME_MS),
        )
        self._greeting = settings.greeting
        self._loading_mimi = threading.Lock()
        self._mimi: Mimi | None = None

    @cached_property
    def card(self) -> ModelCard:
        """What clients are told of the model."""
        lm = self.bundle.lm
        return ModelCard(
            name=self.bundle.name,
            shape=f"{lm.num_layers} layers of {lm.dim}, {lm.n_q} codebooks heard, {lm.dep_q} spoken",
            trained=self.bundle.trained,
            model_delay_ms=FRAME_MS * lm.max_delay,
            text=self.spelling.kind,
            about=self._greeting.about,
            suggestions=self._greeting.suggestions,
        )

    @cached_property
    def memory(self) -> MemoryNeeds:
        """What serving all lanes will take, of this process."""
        return memory_needs(self.bundle, self.lanes, self.share)

    def digest(self) -> str:
        """Which weights these are: SHA-256 over the files of both models."""
        whole = hashlib.sha256()
        for path in (self.bundle.lm_path, self.bundle.mimi_path):
            for file in shard_paths(path):
                with file.open("rb") as content:
                    whole.update(hashlib.file_digest(content, "sha256").digest())
        return whole.hexdigest()

    def load_encoder(self) -> EncoderStage:
        """Mimi's half that hears."""
        return EncoderStage(self._shared_mimi(), self.lanes)

    def load_stepper(self, lead: Lead | None = None) -> StepperStage:
        """The language model, its delays and its text; with `lead`, the other ranks have the rest of it."""
        if lead is None:
            return StepperStage(self.bundle.load_lm(), self.lanes, self.spelling, self._rules)
        model = self._load_share(lead.rounds)
        lead.wait_loaded()
        return StepperStage(Leader(model, lead), self.lanes, self.spelling, self._rules)

    def follower(self, rounds: Rounds) -> Follower:
        """The part of a rank behind the first; it loads its share when it runs."""
        return Follower(rounds, partial(self._load_share, rounds))

    def rounds(self, group: "mx.distributed.Group") -> Rounds:
        """What the ranks of `group` tell each other about this model.

        Raises:
            ConfigError: they were not all started for it.
        """
        lm = self.bundle.lm
        rounds = Rounds(group, Form(self.lanes + 1, bucket_widths(self.lanes)[-1], lm.n_q, lm.dep_q))
        machine = prepare()
        header = read_header(self.bundle.lm_path)
        described = (
            machine.device, machine.compute_dtype, machine.mlx_version, str(rounds.form.dtype),
            msgspec.to_builtins(lm), self.bundle.guidance, self.share and self.share.whole_depformer,
            sorted((name, tensor.dtype, tensor.shape) for name, tensor in header.items()),
        )  # fmt: skip
        rounds.agree(hashlib.sha256(repr(described).encode()).digest())
        return rounds

    def _load_share(self, rounds: Rounds) -> LmModel:
        assert self.share is not None, "the chain was opened for one process"
        return self.bundle.load_lm(Member(self.share, rounds.group))

    def load_decoder(self) -> DecoderStage:
        """Mimi's half that speaks."""
        return DecoderStage(self._shared_mimi(), self.lanes, self.bundle.lm.dep_q)

    def _shared_mimi(self) -> Mimi:
        with self._loading_mimi:
            if self._mimi is None:
                self._mimi = self.bundle.load_mimi()
            return self._mimi


def open_chain(config: Config, ranks: Ranks = ALONE) -> Chain:
    """Find, check and prepare what `config` describes, for one of several `ranks`; no weight is read yet.

    Raises:
        ConfigError: the model's configuration is wrong, or cannot be dealt out to so many ranks.
        WeightsError: files are missing, malformed, or not what the configuration says; or
            this machine has not the memory for them.
    """
    bundle = open_bundle(config)
    share = None
    if ranks.size > 1:
        share = Share(ranks.rank, ranks.size, whole_depformer=config.settings.ranks.depformer == "whole")
    bundle.check(share)
    chain = Chain(bundle, config.settings, share)
    require_room(chain.memory, str(bundle.lm_path))
    divide_cores(lone=chain.lanes == 1 and bundle.lm_parameters >= STREAMED_PARAMETERS)
    return chain
