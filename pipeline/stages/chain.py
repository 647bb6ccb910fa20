"""The three stages of one checkpoint, each made on whichever thread asks for it.

The encoder's and the decoder's threads share one Mimi: its weights are evaluated when it
is loaded, and evaluated arrays belong to no thread.
"""

import hashlib
import threading
from functools import cached_property

from pipeline.backend import divide_cores
from pipeline.config import Config, Settings
from pipeline.models.bundle import Bundle, open_bundle
from pipeline.models.files import shard_paths
from pipeline.models.memory import MemoryNeeds, memory_needs, require_room
from pipeline.models.mimi import Mimi
from pipeline.stages.decoder import DecoderStage
from pipeline.stages.encoder import EncoderStage
from pipeline.stages.stepper import StepperStage
from pipeline.stages.text import SentencePiece, Spelling, TokenIds, UtteranceRules
from pipeline.units import FRAME_MS
from pipeline.values import ModelCard

SMALL_LANES = 16  # lanes.max, unset, of a model that leaves room for many
LARGE_PARAMETERS = 10**9  # from here on one session is what most machines can hold
STREAMED_PARAMETERS = 25 * 10**6  # 100 MB in float32: from here on no cache holds them from step to step


class Chain:
    """Encoder, stepper and decoder for `lanes` sessions; loading is left to their threads."""

    def __init__(self, bundle: Bundle, settings: Settings) -> None:
        """Prepare to load `bundle`; the tokenizer is read at once, because its errors belong to the start.

        Raises:
            WeightsError: the tokenizer is no SentencePiece model, or has another vocabulary.
        """
        self.bundle = bundle
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
        )

    @cached_property
    def memory(self) -> MemoryNeeds:
        """What serving all lanes will take."""
        return memory_needs(self.bundle, self.lanes)

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

    def load_stepper(self) -> StepperStage:
        """The language model, its delays and its text."""
        return StepperStage(self.bundle.load_lm(), self.lanes, self.spelling, self._rules)

    def load_decoder(self) -> DecoderStage:
        """Mimi's half that speaks."""
        return DecoderStage(self._shared_mimi(), self.lanes, self.bundle.lm.dep_q)

    def _shared_mimi(self) -> Mimi:
        with self._loading_mimi:
            if self._mimi is None:
                self._mimi = self.bundle.load_mimi()
            return self._mimi


def open_chain(config: Config) -> Chain:
    """Find, check and prepare what `config` describes; no weight is read yet.

    Raises:
        ConfigError: the model's configuration is wrong.
        WeightsError: files are missing, malformed, or not what the configuration says; or
            this machine has not the memory for them.
    """
    bundle = open_bundle(config)
    bundle.check()
    chain = Chain(bundle, config.settings)
    require_room(chain.memory, str(bundle.lm_path))
    divide_cores(lone=chain.lanes == 1 and bundle.lm_parameters >= STREAMED_PARAMETERS)
    return chain
