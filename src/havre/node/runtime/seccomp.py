"""The system calls a container may make: profile `RuntimeDefault`, and profiles from files. Pure, but for `read`.

The default profile answers EPERM to everything that is not listed here. Calls are listed by what they are for; a name
that the local libseccomp does not know is skipped by the OCI runtimes, so names of new kernels do no harm. Capabilities
open further calls, since what they guard is then meant to be used.

Source of the facts: the default policies of Docker and containerd (contrib/seccomp), and the seccomp section of the OCI
runtime specification.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

from havre.lang import json
from havre.node.runtime.errors import Invalid

__all__ = ["default", "read"]

PROFILE_LIMIT = 1024 * 1024  # bytes; the default profile has 10 KiB

_FILES = """
access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64
fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync
fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64
futimesat getcwd getdents getdents64 getxattr inotify_add_watch inotify_init inotify_init1 inotify_rm_watch ioctl lchown
lchown32 lgetxattr link linkat listxattr llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 mkdir mkdirat
mknod mknodat name_to_handle_at newfstatat open openat openat2 readahead readlink readlinkat removexattr rename renameat
renameat2 rmdir setxattr stat stat64 statfs statfs64 statx symlink symlinkat sync sync_file_range syncfs truncate
truncate64 umask unlink unlinkat utime utimensat utimensat_time64 utimes
"""
_INPUT_OUTPUT = """
epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2
io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioprio_get ioprio_set
_newselect pipe pipe2 poll ppoll ppoll_time64 pread64 preadv preadv2 pselect6 pselect6_time64 pwrite64 pwritev pwritev2
read readv select sendfile sendfile64 splice tee vmsplice write writev
"""
_SOCKETS = """
accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg recvmmsg_time64 recvmsg
send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair
"""
_MEMORY = """
brk cachestat madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap mmap2
mprotect mremap msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect remap_file_pages
"""
_PROCESSES = """
capget capset execve execveat exit exit_group fork get_robust_list get_thread_area getcpu getegid getegid32 geteuid
geteuid32 getgid getgid32 getgroups getgroups32 getpgid getpgrp getpid getppid getpriority getresgid getresgid32
getresuid getresuid32 getrlimit getrusage getsid gettid getuid getuid32 kill landlock_add_rule landlock_create_ruleset
landlock_restrict_self pause pidfd_open pidfd_send_signal prctl prlimit64 process_mrelease process_vm_readv
process_vm_writev ptrace restart_syscall rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn
rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min
sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64
sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp set_robust_list set_thread_area
set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setpgid setpriority
setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid setuid setuid32
sigaltstack signalfd signalfd4 sigprocmask sigreturn sysinfo tgkill tkill ugetrlimit uname vfork wait4 waitid waitpid
"""
_SYNCHRONIZATION = """
futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake ipc mq_getsetattr mq_notify mq_open mq_timedreceive
mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop
semtimedop semtimedop_time64 shmat shmctl shmdt shmget
"""
_TIME = """
adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64
clock_nanosleep clock_nanosleep_time64 getitimer getrandom gettimeofday nanosleep setitimer time timer_create
timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime
timerfd_gettime64 timerfd_settime timerfd_settime64 times
"""
_ALWAYS = sorted({*" ".join((_FILES, _INPUT_OUTPUT, _SOCKETS, _MEMORY, _PROCESSES, _SYNCHRONIZATION, _TIME)).split()})

_BY_ARCHITECTURE = {
    "x86_64": ("arch_prctl", "modify_ldt"),
    "aarch64": ("arm_fadvise64_64", "arm_sync_file_range", "sync_file_range2", "breakpoint", "cacheflush", "set_tls"),
}
_ARCHITECTURES = {
    "x86_64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"),
    "aarch64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
}
_BY_CAPABILITY = {
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_SYS_ADMIN": (
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount "
        "open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare"
    ),
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "delete_module init_module finit_module",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
    "CAP_SYS_RAWIO": "iopl ioperm",
    "CAP_SYS_TIME": "settimeofday stime clock_settime clock_settime64",
    "CAP_SYS_TTY_CONFIG": "vhangup",
    "CAP_SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "CAP_SYSLOG": "syslog",
    "CAP_BPF": "bpf",
    "CAP_PERFMON": "perf_event_open",
}

_AF_VSOCK = 40  # reaches the hypervisor past every network policy
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)  # Linux, 32-bit addresses, UNAME26, both, and "tell me"
_NEW_NAMESPACES = 0x7E020000  # CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}


def _allow(*names: str, args: list[dict[str, int | str]] | None = None) -> dict[str, Any]:
    rule: dict[str, Any] = {"names": list(names), "action": "SCMP_ACT_ALLOW"}
    return rule if args is None else rule | {"args": args}


def default(capabilities: list[str], architecture: str) -> dict[str, Any]:
    """The `linux.seccomp` of profile RuntimeDefault for a container with these capabilities on this `uname -m`."""
    held = set(capabilities)
    rules = [
        _allow(*_ALWAYS, *_BY_ARCHITECTURE.get(architecture, ())),
        _allow("socket", args=[{"index": 0, "value": _AF_VSOCK, "op": "SCMP_CMP_NE"}]),
        *(_allow("personality", args=[{"index": 0, "value": p, "op": "SCMP_CMP_EQ"}]) for p in _PERSONALITIES),
    ]
    rules += [_allow(*names.split()) for capability, names in _BY_CAPABILITY.items() if capability in held]
    if "CAP_SYS_ADMIN" not in held:
        masked: dict[str, int | str] = {
            "index": 0,
            "value": _NEW_NAMESPACES,
            "valueTwo": 0,
            "op": "SCMP_CMP_MASKED_EQ",
        }
        rules.append(_allow("clone", args=[masked]))
        # A filter cannot look into the struct that clone3 takes; ENOSYS makes C libraries fall back to clone.
        rules.append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS})
    profile: dict[str, Any] = {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": errno.EPERM, "syscalls": rules}
    if architecture in _ARCHITECTURES:
        profile["architectures"] = list(_ARCHITECTURES[architecture])
    return profile


def read(path: Path) -> dict[str, Any]:
    """A profile of type Localhost: JSON of the OCI runtime specification. Raises Invalid."""
    try:
        with path.open("rb") as file:
            data = file.read(PROFILE_LIMIT + 1)
    except OSError as error:
        raise Invalid(f"seccomp profile {path}: {error.strerror}") from error
    if len(data) > PROFILE_LIMIT:
        raise Invalid(f"seccomp profile {path}: larger than {PROFILE_LIMIT} bytes")
    try:
        profile = json.loads(data)
    except ValueError as error:
        raise Invalid(f"seccomp profile {path}: not JSON: {error}") from error
    if not isinstance(profile, dict) or not isinstance(profile.get("defaultAction"), str):
        raise Invalid(f"seccomp profile {path}: not an object with a defaultAction")
    return profile
