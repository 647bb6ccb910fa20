"""What to append to a transcript that only grows, from utterances that are sent whole each time.

Partial texts may be dropped, so each one is the whole utterance so far. Clients of other dialects append
instead: they get what is new. Utterances are separated by a space.
"""

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # the bytes of a character that is not whole yet


class TextDeltas:
    """One session's transcript."""

    def __init__(self) -> None:
        self._sent = ""
        self._separator = ""

    def partial(self, text: str) -> str:
        """What is new in the utterance so far; empty where nothing is."""
        return self._append(text.rstrip(_INCOMPLETE))

    def final(self, text: str) -> str:
        """What is new in the whole utterance; the next text begins another one."""
        delta = self._append(text)
        self._sent = ""
        self._separator = " "
        return delta

    def _append(self, text: str) -> str:
        if not text.startswith(self._sent):  # what was appended cannot be taken back
            return ""
        delta = text[len(self._sent) :]
        self._sent = text
        if not delta:
            return ""
        separator = self._separator if not delta[:1].isspace() else ""
        self._separator = ""
        return separator + delta
