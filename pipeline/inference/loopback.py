"""Which names a server on this machine may be asked for by: a stranger's page must not reach it by one."""

import ipaddress

NAME = "localhost"


def host_of(header: str) -> str:
    """The name or address of an HTTP header `Host`, without its port and an IPv6 address's brackets."""
    name = header.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.rpartition(":")[0] if ":" in name else name


def is_loopback(name: str) -> bool:
    """Whether a name or address means this machine, whatever a name server says."""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name.lower().rstrip(".") == NAME
