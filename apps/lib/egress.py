"""Which addresses outbound calls may reach.

Networks are listed here one by one: ``ipaddress.is_global`` differs between Python versions (IANA special-purpose address
registries, RFC 6890).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from django.conf import settings

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

FORBIDDEN: tuple[Network, ...] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24",
        "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
        "::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32",
        "2002::/16", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
    )
)  # fmt: skip


@dataclass(frozen=True)
class Allowance:
    """What ``JACKFIELD_EGRESS_ALLOW`` permits beyond the public internet."""

    networks: tuple[Network, ...]
    endpoints: frozenset[tuple[str, int]]
    hosts: frozenset[tuple[str, int | None]]


def parse_allowance(text: str) -> Allowance:
    """Comma-separated networks (``10.0.0.0/8``), addresses with a port (``127.0.0.1:8000``) or hosts (``hr.internal``).

    Raises ValueError naming the entry that is none of these.
    """
    networks: list[Network] = []
    endpoints: set[tuple[str, int]] = set()
    hosts: set[tuple[str, int | None]] = set()
    for entry in filter(None, (part.strip() for part in text.split(","))):
        try:
            networks.append(ipaddress.ip_network(entry, strict=False))
            continue
        except ValueError:
            pass
        parts = urlsplit(f"//{entry}")
        if not parts.hostname or parts.path or parts.query or parts.fragment or parts.username is not None:
            raise ValueError(f"{entry!r} is neither a network nor a host")
        try:
            address = str(ipaddress.ip_address(parts.hostname))
        except ValueError:
            hosts.add((parts.hostname.rstrip("."), parts.port))
        else:
            endpoints.add((address, parts.port or 0))
    return Allowance(tuple(networks), frozenset(endpoints), frozenset(hosts))


@lru_cache(maxsize=8)
def _allowance(text: str) -> Allowance:
    return parse_allowance(text)


def allowance() -> Allowance:
    return _allowance(settings.JACKFIELD_EGRESS_ALLOW)


def is_permitted(ip: str, port: int, *, host: str = "") -> bool:
    """Whether a socket to this address may be opened, for a URL that names ``host``."""
    try:
        address = ipaddress.ip_address(ip.partition("%")[0])
    except ValueError:
        return False
    allowed = allowance()
    name = host.lower().rstrip(".")
    if (name, None) in allowed.hosts or (name, port) in allowed.hosts:
        return True
    if (str(address), port) in allowed.endpoints:
        return True
    candidates = [address]
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        candidates.append(address.ipv4_mapped)
    if any(
        candidate in network for candidate in candidates for network in allowed.networks if _same(candidate, network)
    ):
        return True
    return not any(address in network for network in FORBIDDEN if _same(address, network))


def _same(address: Address, network: Network) -> bool:
    return address.version == network.version


def is_named(url: str) -> bool:
    """Whether ``JACKFIELD_EGRESS_ALLOW`` names this URL's host: only there may credentials go without TLS."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    port = parts.port or (443 if parts.scheme == "https" else 80)
    allowed = allowance()
    if (host, None) in allowed.hosts or (host, port) in allowed.hosts or (host, port) in allowed.endpoints:
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" and is_permitted("127.0.0.1", port)
    return any(address in network for network in allowed.networks if _same(address, network))
