"""This process gives up writing anywhere but below one directory, for good: Landlock, since Linux 5.19.

A net under the walk that `node.beneath` keeps inside: should that have a bug, the kernel still refuses to make, change
or remove a file elsewhere. Where the kernel has no Landlock, nothing happens, and the walk stands alone.

Source: landlock(7). Rights by version of its interface: 1 make, write, remove · 2 move and link elsewhere · 3 truncate.
"""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path
from typing import Final

_CREATE_RULESET: Final = 444  # the same numbers on every architecture
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
_ASK_VERSION: Final = 1
_PATH_BENEATH: Final = 1

_WRITE: Final = 1 << 1 | sum(1 << bit for bit in range(4, 13))  # write; remove, make of every kind
_MOVE: Final = 1 << 13
_LINKS: Final = 2  # the first version in which hard links between directories can be allowed: Linux 5.19
_TRUNCATE: Final = 1 << 14

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


def interface() -> int:
    """The version of Landlock's interface; below 1 there is none."""
    return int(_syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _ASK_VERSION))


def write_only_below(directory: Path) -> bool:
    """True if the kernel holds us to it from now on. Needs no_new_privs or CAP_SYS_ADMIN."""
    version = interface()
    if version < _LINKS:
        return False
    rights = _WRITE | _MOVE | (_TRUNCATE if version >= 3 else 0)
    ruleset = _syscall(_CREATE_RULESET, struct.pack("=Q", rights), ctypes.c_size_t(8), 0)
    if ruleset < 0:
        return False
    place = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        # struct landlock_path_beneath_attr { __u64 allowed_access; __s32 parent_fd; } packed
        rule = struct.pack("=Qi", rights, place)
        if _syscall(_ADD_RULE, ctypes.c_int(ruleset), _PATH_BENEATH, rule, 0) != 0:
            return False
        return bool(_syscall(_RESTRICT_SELF, ctypes.c_int(ruleset), 0) == 0)
    finally:
        os.close(place)
        os.close(ruleset)
