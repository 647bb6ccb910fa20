"""One response of the Realtime API, with one item of one part, as events in their order."""

from collections.abc import Mapping
from typing import Any, Final, Literal

from pipeline.protocol.openai_events import format_fields
from pipeline.units import AudioFormat

Event = tuple[str, dict[str, Any]]
Status = Literal["completed", "cancelled", "incomplete"]
_PART: Final = {"output_index": 0, "content_index": 0}


class Response:
    """What the model says from the beginning of a turn to its end.

    Attributes:
        id: its name.
        item_id: the name of what is said.
        speaks: whether the model has begun to speak.
    """

    def __init__(self, number: str, metadata: Mapping[str, str] | None) -> None:
        self.id = f"resp_{number}"
        self.item_id = f"item_{number}"
        self.speaks = False
        self._metadata = metadata
        self._transcript = ""

    @property
    def place(self) -> dict[str, Any]:
        """Where its sound and its words belong."""
        return {"response_id": self.id, "item_id": self.item_id, **_PART}

    def created(self, audio_format: AudioFormat) -> Event:
        """The response is there; the model may not speak yet."""
        return "response.created", {"response": self._response("in_progress", [], audio_format)}

    def begin(self, previous_item_id: str | None) -> list[Event]:
        """The model begins to speak."""
        self.speaks = True
        item = {**self._item("in_progress"), "content": []}
        part = {"type": "audio", "transcript": ""}
        return [
            (
                "response.output_item.added",
                {"response_id": self.id, "output_index": 0, "item": item},
            ),
            ("conversation.item.added", {"previous_item_id": previous_item_id, "item": item}),
            ("response.content_part.added", {**self.place, "part": part}),
        ]

    def words(self, delta: str) -> Event:
        """More of what is said; the space between it and what was said before belongs to neither."""
        if not self._transcript:
            delta = delta.lstrip()
        self._transcript += delta
        return "response.output_audio_transcript.delta", {**self.place, "delta": delta}

    def done(self, status: Status, previous_item_id: str | None, audio_format: AudioFormat) -> list[Event]:
        """It has ended; one in which nothing was said has no item."""
        if not self.speaks:
            return [("response.done", {"response": self._response(status, [], audio_format)})]
        item = self._item("completed" if status == "completed" else "incomplete")
        return [
            ("response.output_audio.done", self.place),
            ("response.output_audio_transcript.done", {**self.place, "transcript": self._transcript}),
            (
                "response.content_part.done",
                {**self.place, "part": {"type": "audio", "transcript": self._transcript}},
            ),
            ("conversation.item.done", {"previous_item_id": previous_item_id, "item": item}),
            ("response.output_item.done", {"response_id": self.id, "output_index": 0, "item": item}),
            ("response.done", {"response": self._response(status, [item], audio_format)}),
        ]

    def _item(self, status: str) -> dict[str, Any]:
        return {
            "id": self.item_id,
            "object": "realtime.item",
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": [{"type": "output_audio", "transcript": self._transcript}],
        }

    def _response(
        self, status: str, output: list[dict[str, Any]], audio_format: AudioFormat
    ) -> dict[str, Any]:
        details: dict[str, Any] | None = None
        if status == "cancelled":
            details = {"type": "cancelled", "reason": "client_cancelled"}
        elif status == "incomplete":
            details = {"type": "incomplete"}
        return {
            "id": self.id,
            "object": "realtime.response",
            "status": status,
            "status_details": details,
            "output": output,
            "output_modalities": ["audio"],
            "audio": {"output": {"format": format_fields(audio_format)}},
            "metadata": self._metadata,
            "usage": None,
        }


def user_item(item_id: str) -> dict[str, Any]:
    """What the user has said, of which the server has no words."""
    return {
        "id": item_id,
        "object": "realtime.item",
        "type": "message",
        "role": "user",
        "status": "completed",
        "content": [{"type": "input_audio", "transcript": None}],
    }
