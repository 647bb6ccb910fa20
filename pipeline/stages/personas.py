"""Makes a prompt of what a client asks for: a voice by its name, a role as text.

Neighbours: `pipeline.models.checkpoint.voice_store` has the voices, `pipeline.models.prompt` lays a prompt
out, `stepper` computes it.
"""

import hashlib

from pipeline.errors import ConfigError, PromptError, VoiceError
from pipeline.models.checkpoint.formats import PERSONA_FAMILY
from pipeline.models.checkpoint.lm_config import LmConfig
from pipeline.models.checkpoint.voice_store import VoiceInfo, VoiceStore
from pipeline.models.prompt import check_prompt, prompt_inputs, tagged
from pipeline.stages.delays import DelayPattern
from pipeline.stages.text import Detokenizer
from pipeline.values import Persona, Prompt, Voice


class Personas:
    """The voices and roles that one model takes. Any thread may ask.

    Args:
        family: of the model, as `formats.family_of` has it.
        pin: whether prompts are kept in the ring, which leaves less room for them.
        problem: why there can be no prompts, as the model is run here; None where there can.
    """

    def __init__(
        self,
        config: LmConfig,
        family: str,
        detokenizer: Detokenizer,
        store: VoiceStore,
        *,
        pin: bool = False,
        problem: str | None = None,
    ) -> None:
        self._config = config
        self._detokenizer = detokenizer
        self._store = store
        self._pin = pin
        trained = family == PERSONA_FAMILY
        self._problem = problem if trained else "this model takes neither a voice nor a role"

    def voices(self) -> list[VoiceInfo] | None:
        """The voices that a session may have; None where the model takes neither a voice nor a role.

        Raises:
            VoiceError: the archive of the published voices is damaged.
        """
        return None if self._problem is not None else self._store.list()

    def build(self, persona: Persona) -> Prompt | None:
        """The prompt for a voice by its name and a role; None for neither.

        Raises:
            PromptError: there is no such voice, or the model cannot begin so.
        """
        if persona.voice is not None or persona.role:
            self._check_taken()
        try:
            voice = None if persona.voice is None else self._store.read(persona.voice)
        except VoiceError as error:
            raise PromptError(f"{error.path}: {error.problem}") from None
        return self.build_from(voice, persona.role)

    def check(self, voice: Voice) -> None:
        """Check that a session can have the voice.

        Raises:
            ConfigError: it cannot.
        """
        try:
            self.build_from(voice, None)
        except PromptError as error:
            raise ConfigError("", str(error)) from None

    def build_from(self, voice: Voice | None, role: str | None) -> Prompt | None:
        """The prompt for a voice and a role; None for neither.

        Raises:
            PromptError: the model cannot begin so.
        """
        if voice is None and not role:
            return None
        self._check_taken()
        tokens: tuple[int, ...] = ()
        if role:
            if self._detokenizer.kind == "ids":
                raise PromptError("this checkpoint has no tokenizer, so it takes no role")
            if not role.isascii() and any("\ud800" <= character <= "\udfff" for character in role):
                raise PromptError("the role has characters that are not Unicode text")
            tokens = tuple(self._detokenizer.encode(tagged(role)))
        prompt = Prompt(_key(voice, tokens), voice, tokens)
        c = self._config
        pattern = DelayPattern(c.delays, c.dep_q, text_initial=c.text_card, audio_initial=c.card)
        check_prompt(prompt_inputs(prompt, c.delays, pattern.initial), c, pin=self._pin)
        return prompt

    def _check_taken(self) -> None:
        if self._problem is not None:
            raise PromptError(self._problem)


def _key(voice: Voice | None, tokens: tuple[int, ...]) -> str:
    """Equal for equal prompts only, whatever a voice is called."""
    digest = hashlib.sha256(repr(tokens).encode())
    arrays = () if voice is None else (voice.codes, voice.embeddings, voice.tail)
    for array in arrays:
        digest.update(b"-" if array is None else repr((array.shape, array.dtype.str)).encode())
        digest.update(b"" if array is None else array.tobytes())
    return digest.hexdigest()
