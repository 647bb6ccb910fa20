"""The items and responses of one session: what the user and the agent have said, in turns.

Everything here returns events of the API, in their order, for `dialect` to write at once.
"""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from pipeline.protocol.openai_events import InvalidEventError
from pipeline.protocol.realtime.responses import Event, Response, Status, user_item
from pipeline.protocol.realtime.turns import TurnTracker
from pipeline.units import AudioFormat

ITEMS_KNOWN: Final = 64  # the newest, which can be truncated


class TurnConversation:
    """One session's.

    Args:
        new_name: a part of the name of each item and response, different every time.
        audio_format: that of the sound, as it is now.
        audio_waits: whether audio of the user is still on its way to the model.

    Attributes:
        response: the one in progress.
        has_user_audio: the user has sent audio that is in no item yet.
    """

    def __init__(
        self,
        new_name: Callable[[], str],
        audio_format: Callable[[], AudioFormat],
        audio_waits: Callable[[], bool],
    ) -> None:
        self.response: Response | None = None
        self.has_user_audio = False
        self._new_name = new_name
        self._audio_format = audio_format
        self._audio_waits = audio_waits
        self._turns = TurnTracker()
        self._cancelled = False  # nothing of this turn is sent any more
        self._items: deque[str] = deque(maxlen=ITEMS_KNOWN)

    @property
    def speaking(self) -> Response | None:
        """The response in progress, if what the model says now belongs to it."""
        return self.response if self.response is not None and self.response.speaks else None

    # From the client

    def commit(self) -> list[Event]:
        """What the user has said since the last time is an item from now on."""
        self.has_user_audio = False
        previous, item_id = self._last_item(), f"item_{self._new_name()}"
        self._items.append(item_id)
        place = {"previous_item_id": previous, "item": user_item(item_id)}
        return [
            ("input_audio_buffer.committed", {"previous_item_id": previous, "item_id": item_id}),
            ("conversation.item.added", place),
            ("conversation.item.done", place),
        ]

    def create(self, metadata: Mapping[str, str] | None, event_id: str | None) -> list[Event]:
        """What the model says next is this response.

        Raises:
            InvalidEventError: there is one already.
        """
        if self.response is not None:
            why = f"{self.response.id} is in progress"
            raise InvalidEventError("conversation_already_has_active_response", why, event_id=event_id)
        return [self._open(metadata)]

    def cancel(self, response_id: str | None, event_id: str | None) -> list[Event]:
        """The response ends; what the model says is not sent until it begins to speak anew.

        Raises:
            InvalidEventError: it is not in progress. Clients know the code, and the words.
        """
        response = self.response
        if response is None or response_id not in (None, response.id):
            why = "Cancellation failed: no active response found"
            raise InvalidEventError("response_cancel_not_active", why, event_id=event_id)
        self._cancelled = response.speaks
        return self._finish("cancelled")

    def truncate(self, fields: dict[str, Any], event_id: str | None) -> list[Event]:
        """The user has heard an item only so far; for the model that changes nothing.

        Raises:
            InvalidEventError: there is no such item, or it is too old.
        """
        if fields["item_id"] not in self._items:
            why = "there is no such item"
            raise InvalidEventError("item_not_found", why, param="item_id", event_id=event_id)
        return [("conversation.item.truncated", fields)]

    # From the model

    def words(self, delta: str) -> list[Event]:
        """More of what the model says."""
        if not delta:
            return []
        events = self._end() if self._turns.is_over_with_text else []
        if self._turns.begin_text():
            events += self._begin()
        if self.speaking is not None:
            events.append(self.speaking.words(delta))
        return events

    def end_words(self) -> list[Event]:
        """The utterance has ended."""
        return self._end() if self._turns.end_text() else []

    def begin_frame(self, *, loud: bool) -> list[Event]:
        """What comes before the sound of a frame, which is sent if the model is `speaking` then."""
        return self._begin() if self._turns.begin_frame(loud=loud) else []

    def end_frame(self) -> list[Event]:
        """What comes behind the sound of a frame."""
        return self._end() if self._turns.end_frame() else []

    def give_up(self) -> list[Event]:
        """The model has said nothing to the response in progress, which ends empty."""
        return self._finish("completed")

    def close(self) -> list[Event]:
        """The session ends."""
        return self._finish("completed" if self._turns.is_over_with_text else "incomplete")

    def _begin(self) -> list[Event]:
        """The model begins to speak: the user's audio that it has received until now is an item."""
        self._cancelled = False
        events: list[Event] = []
        if self.has_user_audio:
            events = self.commit()
            self.has_user_audio = self._audio_waits()
        if self.response is None:
            events.append(self._open(None))
        assert self.response is not None
        events += self.response.begin(self._last_item())
        self._items.append(self.response.item_id)
        return events

    def _open(self, metadata: Mapping[str, str] | None) -> Event:
        self.response = Response(self._new_name(), metadata)
        return self.response.created(self._audio_format())

    def _end(self) -> list[Event]:
        """The model has finished speaking."""
        if self._cancelled:
            self._cancelled = False
            return []
        return self._finish("completed")

    def _finish(self, status: Status) -> list[Event]:
        response, self.response = self.response, None
        if response is None:
            return []
        return response.done(status, self._before(response), self._audio_format())

    def _last_item(self) -> str | None:
        return self._items[-1] if self._items else None

    def _before(self, response: Response) -> str | None:
        """The item before that of the response."""
        before = None
        for item_id in self._items:
            if item_id == response.item_id:
                break
            before = item_id
        return before
