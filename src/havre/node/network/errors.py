"""How the network of a node fails.

NetworkError
├── NoFreeAddress    every address of the pod CIDR has a pod
├── Overlap          the pod CIDR is already used by something else on this machine
├── PortTaken        another pod has the host port
└── NotOpen          the network was used before it was opened, or after it was closed
"""

from __future__ import annotations


class NetworkError(Exception):
    """What a pod's network needs could not be done; the message says what, on what, and what to do."""


class NoFreeAddress(NetworkError):
    """Every address of the pod CIDR has a pod."""


class Overlap(NetworkError):
    """The pod CIDR is already used by something else on this machine."""


class PortTaken(NetworkError):
    """Another pod has the host port."""


class NotOpen(NetworkError):
    """The network was used before it was opened, or after it was closed."""
