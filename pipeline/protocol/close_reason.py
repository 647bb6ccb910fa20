"""Why a connection ends, by name; `web` maps the names to WebSocket close codes."""

from enum import Enum


class CloseReason(Enum):
    """One reason to close; the value is a sentence that may be shown to a person."""

    NORMAL = "The conversation is over."
    GOING_AWAY = "This end is shutting down or leaving the page."
    PROTOCOL_ERROR = "The peer sent something that is not a packet of this protocol."
    UNSUPPORTED_DATA = "The peer sent a text frame where only binary frames are allowed."
    POLICY_VIOLATION = "The peer sent more than this end can handle, and did not stop."
    TOO_BIG = "The peer sent a message over the size limit."
    INTERNAL_ERROR = "This end failed, through no fault of the peer."
    TRY_AGAIN_LATER = "This end cannot serve or keep up now; the peer may connect again."
    REPLACED = "The session was taken over by a newer connection."
