"""What this machine offers and what Havre will do without: `havre doctor` prints it.

Every check looks, changes nothing that stays, and says what it found, whether that is enough, and what to do if not.
"""

from __future__ import annotations

import errno
import os
import platform
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from havre.app.config import Config

LEAST_DISK = 2 << 30  # bytes: images of a small application, and the log of the store
OLDEST_KERNEL = (5, 18)  # bpf_set_retval, which refuses connections to Services without endpoints
_SYS_RESOURCE = 24  # CAP_SYS_RESOURCE of linux/capability.h


class Verdict(Enum):
    """How good it is."""

    OK = "ok"
    LESS = "less"  # something degrades
    MISSING = "missing"  # a node cannot run


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `advice` is empty when all is well."""

    what: str
    verdict: Verdict
    found: str
    advice: str = ""


def examine(config: Config) -> list[Finding]:
    """Every finding, the most basic first. Blocks for some milliseconds."""
    checks: tuple[Callable[[Config], Iterator[Finding]], ...] = (
        _kernel,
        _rights,
        _cgroups,
        _programs,
        _bpf,
        _disk,
        _ports,
        _files,
    )
    return [finding for check in checks for finding in check(config)]


def _kernel(_: Config) -> Iterator[Finding]:
    release = platform.release()
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    if numbers >= OLDEST_KERNEL:
        yield Finding("kernel", Verdict.OK, release)
    else:
        yield Finding("kernel", Verdict.MISSING, release, "Services need 5.18 or newer; Debian 12 has 6.1")


def _rights(_: Config) -> Iterator[Finding]:
    if os.geteuid() != 0:
        yield Finding("root", Verdict.MISSING, "no", "without root only the API runs; a node needs sudo")
        return
    yield Finding("root", Verdict.OK, "yes")
    status = Path("/proc/self/status").read_text()
    effective = int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff")), 16)
    if not effective >> _SYS_RESOURCE & 1:
        advice = "containers cannot be protected from the kernel's memory killer, nor get more open files than we"
        yield Finding("CAP_SYS_RESOURCE", Verdict.LESS, "no", advice)


def _cgroups(_: Config) -> Iterator[Finding]:
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        controllers = (root / "cgroup.controllers").read_text().split()
        missing = {"cpu", "memory", "pids"} - set(controllers)
        verdict = Verdict.LESS if missing else Verdict.OK
        advice = f"limits on {', '.join(sorted(missing))} have no effect" if missing else ""
        yield Finding("cgroups", verdict, f"v2: {' '.join(controllers)}", advice)
    elif (root / "unified" / "cgroup.procs").exists() and (root / "memory").is_dir():
        yield Finding("cgroups", Verdict.OK, "hybrid: limits from v1, eBPF and kill from v2")
    else:
        advice = "mount cgroup2 at /sys/fs/cgroup, or boot with systemd.unified_cgroup_hierarchy=1"
        yield Finding("cgroups", Verdict.MISSING, "v1 without a v2 hierarchy", advice)


def _programs(_: Config) -> Iterator[Finding]:
    for names, package in ((("conmon",), "conmon"), (("crun", "runc"), "crun")):
        found = [name for name in names if shutil.which(name)]
        if found:
            yield Finding(package, Verdict.OK, ", ".join(found))
        else:
            yield Finding(package, Verdict.MISSING, "not installed", f"apt-get install {package}")


def _bpf(_: Config) -> Iterator[Finding]:
    from havre.node.bpf import probe

    found = probe.probe()
    for name, result in found.items():
        if result == probe.OK:
            continue
        needed = name in probe.NEEDED
        advice = "pods and Services need it" if needed else "not needed by what runs today"
        if name == "libbpf":
            advice = "apt-get install libbpf1"
        yield Finding(f"eBPF {name}", Verdict.MISSING if needed else Verdict.LESS, result, advice)
    fine = sum(result == probe.OK for result in found.values())
    yield Finding("eBPF", Verdict.OK if fine else Verdict.MISSING, f"{fine} of {len(found)} features work")


def _disk(config: Config) -> Iterator[Finding]:
    place = next(path for path in (config.data_dir, *config.data_dir.parents) if path.exists())
    free = shutil.disk_usage(place).free
    shown = f"{free / (1 << 30):.1f} GiB free at {place}"
    if free >= LEAST_DISK:
        yield Finding("disk", Verdict.OK, shown)
    else:
        yield Finding("disk", Verdict.LESS, shown, "make room, or choose another --data-dir: images need gigabytes")


def _ports(config: Config) -> Iterator[Finding]:
    from havre.app import background

    if background.running(config) is not None:
        yield Finding("ports", Verdict.OK, "in use by this instance, which runs")
        return
    for option, host, port in (
        ("api", config.api_host, config.api_port),
        ("agent", "0.0.0.0", config.agent_port),  # noqa: S104  where it would collide
        ("registry", "127.0.0.1", config.registry_port),
    ):
        if problem := _taken(host, port):
            yield Finding(
                f"port {port}", Verdict.MISSING, problem, f"stop what listens there, or choose another --{option}-port"
            )
        else:
            yield Finding(f"port {port}", Verdict.OK, f"free for the {option}")


def _taken(host: str, port: int) -> str:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as e:
            return "in use" if e.errno == errno.EADDRINUSE else str(e.strerror)
    return ""


def _files(_: Config) -> Iterator[Finding]:
    resolvers = [
        line.split()[1]
        for line in _text("/etc/resolv.conf").splitlines()
        if line.startswith("nameserver") and len(line.split()) > 1
    ]
    if not resolvers:
        yield Finding("name servers", Verdict.LESS, "none in /etc/resolv.conf", "pods resolve cluster names only")
    else:
        yield Finding("name servers", Verdict.OK, ", ".join(resolvers))
    forwards = _text("/proc/sys/net/netfilter/nf_conntrack_max")
    if not forwards:
        yield Finding("conntrack", Verdict.LESS, "not loaded", "what pods send to the outside cannot be translated yet")


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
