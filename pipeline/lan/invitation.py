"""A link that opens the page and shows the token, for a phone to point its camera at.

The token rides in the fragment, which browsers send to nobody. It is shown on a terminal, to the
person in front of it, and never logged.
"""

import shutil
from dataclasses import dataclass, field
from typing import Final, Self, TextIO

from qrcode.constants import ERROR_CORRECT_L
from qrcode.main import QRCode

from pipeline.lan.credentials import Credentials

PAGE: Final = "/packet-voice"
_BLOCKS: Final = "█▀▄\xa0"  # what a code is drawn with
_BORDER: Final = 2  # modules; four by the book, two in every camera's practice


@dataclass(frozen=True, slots=True)
class Invitation:
    """Where to find the server at `port`, and by what to know it. `hosts`: the best one first."""

    credentials: Credentials
    hosts: tuple[str, ...]
    port: int
    token: str | None = field(repr=False)

    @classmethod
    def to(cls, credentials: Credentials, address: str, port: int, token: str | None) -> Self:
        """An invitation to a server bound to `address`."""
        return cls(credentials, credentials.reach.hosts_elsewhere(address), port, token)

    def addresses(self) -> tuple[str, ...]:
        """The page at each host, without the token."""
        return tuple(f"https://{host}:{self.port}{PAGE}" for host in self.hosts)

    def links(self) -> tuple[str, ...]:
        """The page at each host, with the token."""
        fragment = "" if self.token is None else f"#token={self.token}"
        return tuple(f"{address}{fragment}" for address in self.addresses())

    def show(self, out: TextIO) -> None:
        """Write it for people, with a QR code if `out` is a terminal that has room for one."""
        links, kept = self.links(), self.credentials
        lines = ["", "Open on a phone or another computer of this network:", ""]
        lines += [f"  {link}" for link in links]
        out.write("\n".join(lines) + "\n\n")
        code = QRCode(error_correction=ERROR_CORRECT_L, border=_BORDER)
        if links and out.isatty() and _can_write(_BLOCKS, out):
            code.add_data(links[0])
            code.make(fit=True)
            if code.modules_count + 2 * _BORDER <= shutil.get_terminal_size().columns:
                code.print_ascii(out, tty=True)
        lines = [
            "",
            "The browser warns, because the certificate is this machine's own. Its SHA-256 fingerprint is",
            f"  {kept.fingerprint}",
            "An iPhone has to trust the authority behind it instead (docs/how-to/phone.md); its fingerprint is",
            f"  {kept.authority_fingerprint}",
            "and a phone finds it at",
            *(f"  https://{host}:{self.port}/authority.crt" for host in self.hosts[:1]),
            "a program on this machine at",
            f"  {kept.authority_file}",
            "",
        ]
        out.write("\n".join(lines) + "\n")
        out.flush()


def _can_write(text: str, out: TextIO) -> bool:
    try:
        text.encode(out.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True
