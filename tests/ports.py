"""Ports of loopback for servers that tests start."""

import random
import socket
from pathlib import Path

__all__ = ["free_port"]

_FIRST = 15_000
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """Return a port of loopback that nothing uses.

    The kernel gives none of these ports to a client, so that a server finds its port free again after a restart. Tests
    that run at the same time choose at random, because each looks for a port before its server takes it.
    """
    end = int(_RANGE.read_text().split()[0]) if _RANGE.exists() else 32_768
    while True:
        port = random.SystemRandom().randrange(_FIRST, end)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
