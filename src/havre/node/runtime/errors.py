"""What the runtime raises; `cri` maps each to one gRPC status.

RuntimeFault
├── NotFound        no such container, sandbox or image
├── AlreadyExists   the name is taken by something else
├── Invalid         the request cannot be meant; fix it
├── Unsupported     meant, but this machine or version cannot do it; refused rather than ignored
├── Precondition    right request, wrong moment: not running, not empty, not ready
├── TimedOut        the time that the caller gave was not enough
└── Failed          conmon, the OCI runtime or the kernel said no
"""

from __future__ import annotations

__all__ = ["AlreadyExists", "Failed", "Invalid", "NotFound", "Precondition", "RuntimeFault", "TimedOut", "Unsupported"]


class RuntimeFault(Exception):
    """A request to the runtime that was not carried out."""


class NotFound(RuntimeFault):
    """The container, sandbox or image named does not exist."""


class AlreadyExists(RuntimeFault):
    """Something else has that name."""


class Invalid(RuntimeFault):
    """The request is contradictory or malformed."""


class Unsupported(RuntimeFault):
    """The request is sound but cannot be honoured here; ignoring it would weaken what was asked for."""


class Precondition(RuntimeFault):
    """The object is in the wrong state for this request."""


class TimedOut(RuntimeFault):
    """It took longer than the caller allowed, and was ended."""


class Failed(RuntimeFault):
    """A program or the kernel refused; the message carries what it said."""
