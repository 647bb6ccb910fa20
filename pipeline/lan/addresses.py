"""What other machines may call this one, given where it listens.

Of a wildcard these are the addresses of the interfaces that are up, the one that packets leave
by first. Left out: IPv6 addresses of one link, which no URL can hold, and global ones, most of
which change by the day; `NAME.local` (RFC 6762) leads to whatever they are.
"""

import ipaddress
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self, TypeAlias

import psutil

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_LOOPBACK: Final[tuple[Address, ...]] = (ipaddress.IPv4Address("127.0.0.1"), ipaddress.IPv6Address("::1"))
# RFC 952 and 1123: what a host may be called, and what a certificate can hold of it.
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
_NAME_CHARACTERS: Final = 253
# Documentation addresses (RFC 5737, RFC 3849): asked for the way there, never sent anything.
_ELSEWHERE: Final = {socket.AF_INET: "198.51.100.1", socket.AF_INET6: "2001:db8::1"}


@dataclass(frozen=True, slots=True)
class Reach:
    """Host names and addresses, those that another machine would rather take first."""

    names: tuple[str, ...]
    addresses: tuple[Address, ...]

    @classmethod
    def of(cls, address: str) -> Self:
        """What leads to a server bound to `address`: an address of this machine, a wildcard, or a name."""
        try:
            bound = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return cls(_unique(address.lower(), *_own_names()), _LOOPBACK)
        if bound.is_unspecified:
            family = socket.AF_INET if bound.version == 4 else socket.AF_INET6
            return cls(_own_names(), tuple(dict.fromkeys([*_own_addresses(family), *_LOOPBACK])))
        return cls(_own_names(), tuple(dict.fromkeys([bound, *_LOOPBACK])))

    def hosts(self) -> tuple[str, ...]:
        """All of them, as a URL and a Host header spell them."""
        return (*(_spelt(address) for address in self.addresses), *self.names)

    def hosts_elsewhere(self, address: str) -> tuple[str, ...]:
        """Those that mean this machine on another one; of a server bound to one address, that alone."""
        try:
            is_wildcard = ipaddress.ip_address(address).is_unspecified
        except ValueError:
            return (address,)
        addresses = [each for each in self.addresses if not each.is_loopback]
        found = [_spelt(each) for each in addresses]
        if is_wildcard:
            found += [name for name in self.names if name.endswith(".local")]
        return tuple(found)


def _own_names() -> tuple[str, ...]:
    """`localhost`, and what this machine calls itself, with and without its domain."""
    full = socket.gethostname().lower().rstrip(".")
    label = full.partition(".")[0]
    names = ["localhost"]
    if label != "localhost":
        names += [f"{label}.local", label, full]
    return _unique(*(name for name in names if _NAME.fullmatch(name) and len(name) <= _NAME_CHARACTERS))


def _own_addresses(family: socket.AddressFamily) -> Iterator[Address]:
    """Of the interfaces that are up, the way out first."""
    outward = _outward(family)
    if outward is not None and _can_be_named(outward):
        yield outward
    states = psutil.net_if_stats()
    for interface, addresses in psutil.net_if_addrs().items():
        if interface in states and states[interface].isup:
            for entry in addresses:
                if entry.family == family:
                    address = ipaddress.ip_address(entry.address.partition("%")[0])
                    if _can_be_named(address):
                        yield address


def _can_be_named(address: Address) -> bool:
    if address.is_loopback or address.is_unspecified:
        return False
    return address.version == 4 or not (address.is_link_local or address.is_global)


def _outward(family: socket.AddressFamily) -> Address | None:
    """The address that packets to elsewhere leave from; connecting a datagram socket sends none."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as asking:
            asking.connect((_ELSEWHERE[family], 9))
            return ipaddress.ip_address(asking.getsockname()[0])
    except OSError:  # no such family here, or no way out
        return None


def _spelt(address: Address) -> str:
    return f"[{address}]" if address.version == 6 else str(address)


def _unique(*names: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
