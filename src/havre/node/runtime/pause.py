"""The first process of a PID namespace that the containers of one pod share; run as a file, by its own interpreter.

As process 1 it adopts what containers orphan. It ignores SIGCHLD, so the kernel reaps for it, and sleeps until it is
killed, which ends the namespace. It is visible to the containers, so it keeps nothing worth taking: its root directory
is an empty, read-only file system, and it has no capabilities, no descriptors and no environment.

Only pods with shareProcessNamespace have one (8 MB, 4 of them shared with other interpreters).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_CLONE_NEWNS = 0x00020000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_PRIVATE = 0x1, 0x2, 0x4, 0x8, 0x4000, 0x40000
_MNT_DETACH = 2
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38
_NOBODY = 65534
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}


def _check(result: int, what: str) -> None:
    if result != 0:
        sys.exit(f"{what}: {os.strerror(ctypes.get_errno())}")


def main() -> None:
    """Shut ourselves in, say so on standard output, sleep."""
    libc = ctypes.CDLL(None, use_errno=True)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    _check(libc.unshare(_CLONE_NEWNS), "unshare")
    _check(libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None), "make / private")
    flags = ctypes.c_ulong(_MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    _check(libc.mount(b"pause", b"/proc", b"tmpfs", flags, b"size=4k"), "mount an empty root")
    os.chdir("/proc")
    _check(libc.syscall(_PIVOT_ROOT[os.uname().machine], b".", b"."), "pivot_root")
    _check(libc.umount2(b".", _MNT_DETACH), "leave the old root")
    os.chdir("/")
    _check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges")
    for capability in range(64):
        if libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break  # EINVAL: past the last capability of this kernel
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)  # takes the capabilities with it
    os.write(1, b"1")
    os.closerange(0, 3)
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
