"""The link to the page with its token, printed with a QR code for a phone's camera.

The token is in the URL fragment, which browsers do not send to any server. It is printed on a terminal
only and never logged.
"""

import shutil
from dataclasses import dataclass, field
from typing import Final, Self, TextIO

from qrcode.constants import ERROR_CORRECT_L
from qrcode.main import QRCode

from pipeline.lan.credentials import Credentials

PAGE: Final = "/packet-voice"
_BLOCKS: Final = "█▀▄\xa0"  # the characters of a printed QR code
_BORDER: Final = 2  # modules; the standard requires four, cameras accept two


@dataclass(frozen=True, slots=True)
class Invitation:
    """How to reach a server on `port` and recognize it. `hosts`: in order of preference."""

    credentials: Credentials
    hosts: tuple[str, ...]
    port: int
    token: str | None = field(repr=False)

    @classmethod
    def to(cls, credentials: Credentials, address: str, port: int, token: str | None) -> Self:
        """The invitation for a server bound to `address`."""
        return cls(credentials, credentials.hosts.external(address), port, token)

    def addresses(self) -> tuple[str, ...]:
        """The URL of the page at each host, without the token."""
        return tuple(f"https://{host}:{self.port}{PAGE}" for host in self.hosts)

    def links(self) -> tuple[str, ...]:
        """The URL of the page at each host, with the token."""
        fragment = "" if self.token is None else f"#token={self.token}"
        return tuple(f"{address}{fragment}" for address in self.addresses())

    def show(self, out: TextIO) -> None:
        """Print the links and fingerprints, with a QR code if `out` is a terminal wide enough."""
        links, credentials = self.links(), self.credentials
        lines = ["", "Open on a phone or another computer on this network:", ""]
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
            "The browser will warn that the certificate is not trusted. Its SHA-256 fingerprint:",
            f"  {credentials.fingerprint}",
            "An iPhone must trust the certificate authority instead (docs/how-to/phone.md). Its fingerprint:",
            f"  {credentials.authority_fingerprint}",
            "Certificate of the authority, for a phone:",
            *(f"  https://{host}:{self.port}/authority.crt" for host in self.hosts[:1]),
            "and for programs on this machine:",
            f"  {credentials.authority_file}",
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
