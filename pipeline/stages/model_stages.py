"""The three stages of one checkpoint, each made on the thread that will use it.

Encoder and decoder share one Mimi: its weights are evaluated when it is loaded, and evaluated
arrays may be used from any thread.
"""

import hashlib
import threading
from functools import cached_property, partial
from typing import TYPE_CHECKING

import msgspec

from pipeline import backend
from pipeline.backend import SINGLE_RANK, Ranks
from pipeline.config import Config, Settings
from pipeline.errors import ConfigError, PromptError
from pipeline.models.bundle import Bundle, open_bundle
from pipeline.models.checkpoint.files import shard_paths
from pipeline.models.checkpoint.safetensors_header import read_header
from pipeline.models.checkpoint.voice_store import VoiceStore
from pipeline.models.lm import LmModel
from pipeline.models.memory import MemoryNeeds, memory_needs, require_memory
from pipeline.models.mimi import Mimi
from pipeline.models.sharding import Shard, ShardRank
from pipeline.stages.batch import bucket_widths
from pipeline.stages.decoder import DecoderStage
from pipeline.stages.encoder import EncoderStage
from pipeline.stages.personas import Personas
from pipeline.stages.stepper import StepperStage
from pipeline.stages.tensor_parallel.collective import Collective, Coordinator
from pipeline.stages.tensor_parallel.follower import Follower
from pipeline.stages.tensor_parallel.leader import Leader
from pipeline.stages.tensor_parallel.messages import MessageLayout
from pipeline.stages.text import Detokenizer, SentencePiece, TokenIds, UtteranceRules
from pipeline.units import FRAME_MS
from pipeline.values import ModelCard, Persona

if TYPE_CHECKING:  # importing `pipeline.models` first lets it choose the BLAS of MLX
    import mlx.core as mx

SMALL_LANES = 16  # the default of lanes.max for a small model
LARGE_PARAMETERS = 10**9  # from here on the default is 1, which is what most machines can hold
STREAMED_PARAMETERS = 25 * 10**6  # 100 MB in float32: more than a CPU cache keeps from step to step


class ModelStages:
    """Loads the encoder, stepper and decoder stage of one checkpoint, for `lanes` sessions."""

    def __init__(self, bundle: Bundle, settings: Settings, shard: Shard | None = None) -> None:
        """Prepare to load `bundle`, or a `shard` of its language model.

        The tokenizer is read at once, so that its errors are start-up errors.

        Raises:
            WeightsError: the tokenizer is not a SentencePiece model, or has another vocabulary.
        """
        self.bundle = bundle
        self.shard = shard
        large = bundle.lm_parameters >= LARGE_PARAMETERS
        self.lanes = settings.lanes.max or (1 if large else SMALL_LANES)
        self.detokenizer: Detokenizer = (
            SentencePiece(bundle.tokenizer, bundle.lm.text_card) if bundle.tokenizer else TokenIds()
        )
        self._rules = UtteranceRules(
            padding=frozenset({bundle.lm.existing_text_padding_id, bundle.lm.existing_text_end_padding_id}),
            padding_run=settings.text.final_after_padding,
            max_steps=round(settings.text.final_after_s * 1000 / FRAME_MS),
        )
        self._greeting = settings.greeting
        self._prompt = settings.prompt
        self._loading_mimi = threading.Lock()
        self._mimi: Mimi | None = None

    @cached_property
    def card(self) -> ModelCard:
        """The description of the model that clients get."""
        lm, voices = self.bundle.lm, self.personas.voices()
        return ModelCard(
            name=self.bundle.name,
            shape=f"{lm.num_layers} layers of {lm.dim}, {lm.n_q} input and {lm.dep_q} output codebooks",
            trained=self.bundle.trained,
            model_delay_ms=FRAME_MS * lm.max_delay,
            text=self.detokenizer.kind,
            about=self._greeting.about,
            suggestions=self._greeting.suggestions,
            voices=None if voices is None else tuple(voice.name for voice in voices),
        )

    @cached_property
    def voices(self) -> VoiceStore:
        """The voices available for this checkpoint."""
        return VoiceStore(self.bundle.voices)

    @cached_property
    def personas(self) -> Personas:
        """Makes prompts from the voices and roles that sessions ask for."""
        problem = None
        if self.shard is not None or self.bundle.cfg_coef != 1:
            problem = "a model that is guided, or split over several processes, takes no prompts"
        return Personas(
            self.bundle.lm,
            self.bundle.family,
            self.detokenizer,
            self.voices,
            pin=self._prompt.pin,
            problem=problem,
        )

    def check_default_prompt(self) -> None:
        """Check that the configured default voice and role can be used.

        Raises:
            ConfigError: they cannot.
        """
        try:
            self.personas.build(Persona(self._prompt.voice, self._prompt.role))
        except PromptError as error:
            raise ConfigError("pipeline.prompt", str(error)) from None

    @cached_property
    def memory(self) -> MemoryNeeds:
        """The memory that serving all lanes takes in this process."""
        return memory_needs(self.bundle, self.lanes, self.shard)

    def digest(self) -> str:
        """SHA-256 over the files of both models, which identifies the weights."""
        digest = hashlib.sha256()
        for path in (self.bundle.lm_path, self.bundle.mimi_path):
            for file in shard_paths(path):
                with file.open("rb") as content:
                    digest.update(hashlib.file_digest(content, "sha256").digest())
        return digest.hexdigest()

    def load_encoder(self) -> EncoderStage:
        """Load the encoder stage."""
        return EncoderStage(self._shared_mimi(), self.lanes)

    def load_stepper(self, coordinator: Coordinator | None = None) -> StepperStage:
        """Load the stepper stage; with a `coordinator`, rank 0's shard, and wait for the other ranks."""
        if coordinator is None:
            return StepperStage(
                self.bundle.load_lm(),
                self.lanes,
                self.detokenizer,
                self._rules,
                prompt_cache_bytes=self.memory.prompts_bytes,
                pins_prompts=self._prompt.pin,
            )
        model = self._load_shard(coordinator.collective)
        coordinator.wait_loaded()
        return StepperStage(Leader(model, coordinator), self.lanes, self.detokenizer, self._rules)

    def follower(self, collective: Collective) -> Follower:
        """The follower of a rank other than 0; it loads its shard when it runs."""
        return Follower(collective, partial(self._load_shard, collective))

    def collective(self, group: "mx.distributed.Group") -> Collective:
        """What the ranks of `group` exchange to run this model together.

        Raises:
            ConfigError: not all ranks were started with the same configuration, weights and versions.
        """
        lm = self.bundle.lm
        layout = MessageLayout(self.lanes + 1, bucket_widths(self.lanes)[-1], lm.n_q, lm.dep_q)
        collective = Collective(group, layout)
        machine = backend.prepare()
        header = read_header(self.bundle.lm_path)
        described = (
            machine.device, machine.compute_dtype, machine.mlx_version, str(layout.dtype),
            msgspec.to_builtins(lm), self.bundle.cfg_coef, self.shard and self.shard.replicated_depformer,
            sorted((name, tensor.dtype, tensor.shape) for name, tensor in header.items()),
        )  # fmt: skip
        collective.check_agreement(hashlib.sha256(repr(described).encode()).digest())
        return collective

    def _load_shard(self, collective: Collective) -> LmModel:
        assert self.shard is not None, "the stages were opened for one process"
        return self.bundle.load_lm(ShardRank(self.shard, collective.group))

    def load_decoder(self) -> DecoderStage:
        """Load the decoder stage."""
        return DecoderStage(self._shared_mimi(), self.lanes, self.bundle.lm.dep_q)

    def _shared_mimi(self) -> Mimi:
        with self._loading_mimi:
            if self._mimi is None:
                self._mimi = self.bundle.load_mimi()
            return self._mimi


def open_stages(config: Config, ranks: Ranks = SINGLE_RANK) -> ModelStages:
    """Find and check what `config` describes, for one of several `ranks`; no weight is read yet.

    Raises:
        ConfigError: the model's configuration is wrong, or cannot be split over so many ranks.
        WeightsError: files are missing, malformed, or do not match the configuration; or this
            machine does not have the memory for them.
    """
    bundle = open_bundle(config)
    shard = None
    if ranks.size > 1:
        shard = Shard(ranks.rank, ranks.size, replicated_depformer=config.settings.ranks.depformer == "whole")
    bundle.check(shard)
    stages = ModelStages(bundle, config.settings, shard)
    stages.check_default_prompt()
    require_memory(stages.memory, str(bundle.lm_path))
    backend.set_blas_threads(all_cores=stages.lanes == 1 and bundle.lm_parameters >= STREAMED_PARAMETERS)
    return stages
