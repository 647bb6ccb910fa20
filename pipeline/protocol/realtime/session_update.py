"""What a `session.update` changes, what of it cannot be had, and what is refused.

Clients of this API send much of the session always (a voice of OpenAI's, how to detect turns, how to
transcribe). What the server cannot do of that is not applied, and `session.updated` shows what is. What a
client sends only on purpose, and would miss, is refused.
"""

from dataclasses import dataclass
from typing import Any

from pipeline.protocol.metadata import ROLE_MAX, VOICE_MAX
from pipeline.protocol.openai_events import OPENAI_VOICES, InvalidEventError
from pipeline.protocol.realtime.client_events import AudioField, InputField, OutputField, SessionField, Update
from pipeline.units import AudioFormat


@dataclass(frozen=True, slots=True)
class Change:
    """What changes; None stays as it is, and an empty voice or role is none.

    `not_applied`: names of fields that have no effect.
    """

    input_format: AudioFormat | None
    output_format: AudioFormat | None
    voice: str | None
    role: str | None
    not_applied: tuple[str, ...]


def read_change(update: Update, voices: tuple[str, ...] | None) -> Change:
    """What an update asks for; `voices` are those of the model, None where it takes neither voice nor role.

    Raises:
        InvalidEventError: something in it cannot be had, and nothing is changed.
    """
    session, event_id = update.session, update.event_id
    _refuse_what_no_model_has(session, event_id)
    audio = session.audio or AudioField()
    given, wanted = audio.input or InputField(), audio.output or OutputField()
    not_applied = _ignored(session, given, wanted)
    voice, role = _voice(wanted), session.instructions
    if voice is not None and (voices is None or (voice in OPENAI_VOICES and voice not in voices)):
        voice = None
        not_applied.append("session.audio.output.voice")
    if role is not None and role.strip() and voices is None:
        not_applied.append("session.instructions")
    if voice and (len(voice) > VOICE_MAX or voice not in (voices or ())):
        raise InvalidEventError(
            "invalid_value",
            "the model on this server has no such voice",
            param="session.audio.output.voice",
            event_id=event_id,
        )
    if role is not None and len(role) > ROLE_MAX and voices is not None:
        why = f"session.instructions may have {ROLE_MAX} characters"
        raise InvalidEventError("invalid_value", why, param="session.instructions", event_id=event_id)
    return Change(
        None if given.format is None else given.format.resolve("session.audio.input.format", event_id),
        None if wanted.format is None else wanted.format.resolve("session.audio.output.format", event_id),
        voice,
        None if role is None or voices is None else role.strip(),
        tuple(not_applied),
    )


def _voice(wanted: OutputField) -> str | None:
    """The voice by its name, or the id in an object."""
    voice = wanted.voice.get("id") if isinstance(wanted.voice, dict) else wanted.voice
    return None if voice is None else str(voice)


def _ignored(session: SessionField, given: InputField, wanted: OutputField) -> list[str]:
    """Fields without an effect that were set to something other than what the server does."""
    asked: dict[str, Any] = {
        "session.audio.input.noise_reduction": given.noise_reduction,
        "session.audio.input.transcription": given.transcription,
        "session.audio.output.speed": None if wanted.speed == 1 else wanted.speed,
        "session.max_output_tokens": None
        if session.max_output_tokens == "inf"
        else session.max_output_tokens,
        "session.prompt": session.prompt,
        "session.reasoning": session.reasoning,
        "session.tracing": session.tracing,
        "session.truncation": session.truncation,
    }
    return [name for name, value in asked.items() if value is not None]


def _refuse_what_no_model_has(session: SessionField, event_id: str | None) -> None:
    refused = {
        "session.tools": (bool(session.tools), "the model on this server cannot call tools"),
        "session.output_modalities": (
            session.output_modalities is not None and "audio" not in session.output_modalities,
            "the model on this server speaks; its words come with the sound",
        ),
    }
    for param, (is_asked, why) in refused.items():
        if is_asked:
            raise InvalidEventError("unsupported_parameter", why, param=param, event_id=event_id)
