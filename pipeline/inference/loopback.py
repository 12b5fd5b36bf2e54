"""Checks of the Host header, so that other sites can't reach a local server by DNS rebinding."""

import ipaddress

NAME = "localhost"


def host_of(header: str) -> str:
    """The name or address in an HTTP `Host` header, without the port and the brackets of IPv6."""
    name = header.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.rpartition(":")[0] if ":" in name else name


def is_loopback(name: str) -> bool:
    """Whether a host name or address is this machine's loopback; makes no DNS lookup."""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name.lower().rstrip(".") == NAME
