"""The host names and addresses under which other machines reach a server on this one.

A server bound to a wildcard is reachable at the address of every interface that is up, the one used for
outgoing packets first. Two kinds of IPv6 addresses are left out: link-local ones, which a URL cannot
contain, and global ones, most of which change daily. `NAME.local` (RFC 6762) resolves to those.
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
# A valid host name (RFC 952, RFC 1123), as a certificate can contain it.
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
_NAME_CHARACTERS: Final = 253
# Documentation addresses (RFC 5737, RFC 3849), used to look up a route; nothing is sent there.
_REMOTE: Final = {socket.AF_INET: "198.51.100.1", socket.AF_INET6: "2001:db8::1"}


@dataclass(frozen=True, slots=True)
class Hosts:
    """Host names and IP addresses of a server, in order of preference for other machines."""

    names: tuple[str, ...]
    addresses: tuple[Address, ...]

    @classmethod
    def of(cls, address: str) -> Self:
        """The hosts of a server bound to `address`: an address of this machine, a wildcard or a name."""
        try:
            bound = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return cls(_unique(address.lower(), *_own_names()), _LOOPBACK)
        if bound.is_unspecified:
            family = socket.AF_INET if bound.version == 4 else socket.AF_INET6
            return cls(_own_names(), tuple(dict.fromkeys([*_own_addresses(family), *_LOOPBACK])))
        return cls(_own_names(), tuple(dict.fromkeys([bound, *_LOOPBACK])))

    def all(self) -> tuple[str, ...]:
        """Every host as written in a URL and a Host header, IPv6 addresses in brackets."""
        return (*(_url_host(address) for address in self.addresses), *self.names)

    def reachable(self, address: str) -> str:
        """The host to open where `address` is bound: itself, or for a wildcard the first external one."""
        try:
            is_wildcard = ipaddress.ip_address(address).is_unspecified
        except ValueError:
            return address
        return next(iter(self.external(address)), "localhost") if is_wildcard else address

    def external(self, address: str) -> tuple[str, ...]:
        """The hosts that other machines can use for a server bound to `address`, as written in a URL."""
        try:
            is_wildcard = ipaddress.ip_address(address).is_unspecified
        except ValueError:
            return (address,)
        addresses = [each for each in self.addresses if not each.is_loopback]
        found = [_url_host(each) for each in addresses]
        if is_wildcard:
            found += [name for name in self.names if name.endswith(".local")]
        return tuple(found)


def _own_names() -> tuple[str, ...]:
    """`localhost` and the host name of this machine, with and without its domain."""
    full = socket.gethostname().lower().rstrip(".")
    label = full.partition(".")[0]
    names = ["localhost"]
    if label != "localhost":
        names += [f"{label}.local", label, full]
    return _unique(*(name for name in names if _NAME.fullmatch(name) and len(name) <= _NAME_CHARACTERS))


def _own_addresses(family: socket.AddressFamily) -> Iterator[Address]:
    """The addresses of the interfaces that are up, the one for outgoing packets first."""
    source = _source_address(family)
    if source is not None and _is_usable(source):
        yield source
    states = psutil.net_if_stats()
    for interface, addresses in psutil.net_if_addrs().items():
        if interface in states and states[interface].isup:
            for entry in addresses:
                if entry.family == family:
                    address = ipaddress.ip_address(entry.address.partition("%")[0])
                    if _is_usable(address):
                        yield address


def _is_usable(address: Address) -> bool:
    """Whether other machines can use the address for long, in a URL."""
    if address.is_loopback or address.is_unspecified:
        return False
    return address.version == 4 or not (address.is_link_local or address.is_global)


def _source_address(family: socket.AddressFamily) -> Address | None:
    """The source address of outgoing packets; connecting a datagram socket does not send one."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((_REMOTE[family], 9))
            return ipaddress.ip_address(probe.getsockname()[0])
    except OSError:  # address family not available, or no route
        return None


def _url_host(address: Address) -> str:
    return f"[{address}]" if address.version == 6 else str(address)


def _unique(*names: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
