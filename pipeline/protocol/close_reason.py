"""Why a connection ends, by name; the numbers of the close codes live where WebSockets are spoken."""

from enum import Enum


class Farewell(Enum):
    """One reason to close; the value is the sentence that a person may be shown."""

    NORMAL = "The conversation is over."
    GOING_AWAY = "This end is shutting down or leaving the page."
    PROTOCOL_ERROR = "The peer sent something that is not a packet of this protocol."
    UNSUPPORTED_DATA = "The peer sent a text frame where only binary ones are spoken."
    TOO_BIG = "The peer sent a message over the size limit."
    INTERNAL_ERROR = "This end failed, through no fault of the peer."
    TRY_AGAIN_LATER = "This end cannot serve or keep up now; the peer may connect again."
    REPLACED = "The session was taken up by a newer connection."
