"""The checks of the Pod Security Standards: what a pod may not do at the levels baseline and restricted.

`violations(level, minor, pod)` gives the problems in upstream's order and words. A check is a function from a pod to
its problem; `since` is the minor version of Kubernetes that introduced it, because a namespace may pin an older one.

Source: k8s.io/pod-security-admission policy/check_*.go and registry.go; the standard itself is at
kubernetes.io/docs/concepts/security/pod-security-standards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from havre.api.meta import Obj, annotations_of
from havre.control.apiserver.rbac import quoted

LATEST = 34  # minor version whose rules "latest" means
WINDOWS_EXEMPT_SINCE = 25  # from then on what Windows does not have is not asked of its pods

_CAPABILITIES = frozenset(
    {
        *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE"),
        *("SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
    }
)
_SELINUX_TYPES = {0: {"", "container_t", "container_init_t", "container_kvm_t"}, 31: {"container_engine_t"}}
_SYSCTLS = {
    0: {
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.ping_group_range",
        "net.ipv4.ip_unprivileged_port_start",
    },
    27: {"net.ipv4.ip_local_reserved_ports"},
    29: {
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
    },
    32: {"net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"},
}
_VOLUMES = frozenset(
    {
        *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image"),
        *("persistentVolumeClaim", "projected", "secret"),
    }
)
_PROFILES = ("RuntimeDefault", "Localhost")


@dataclass(frozen=True, slots=True)
class Violation:
    reason: str
    detail: str

    def __str__(self) -> str:
        return f"{self.reason} ({self.detail})" if self.detail else self.reason


@dataclass(frozen=True, slots=True)
class Pod:
    """What the checks look at: metadata and spec of a pod or of a template, and the version of the rules."""

    annotations: dict[str, str]
    spec: Obj
    minor: int

    @property
    def security(self) -> Obj:
        return self.spec.get("securityContext") or {}

    @property
    def is_windows(self) -> bool:
        return bool((self.spec.get("os") or {}).get("name") == "windows") and self.minor >= WINDOWS_EXEMPT_SINCE

    def containers(self) -> list[Obj]:
        return [c for key in ("initContainers", "containers", "ephemeralContainers") for c in self.spec.get(key) or ()]

    def where(self, bad: Callable[[Obj], Any]) -> list[str]:
        """Names of the containers whose securityContext is bad."""
        return [c["name"] for c in self.containers() if bad(c.get("securityContext") or {})]


Check = Callable[[Pod], Violation | None]


def violations(level: str, minor: int, template: Obj) -> list[Violation]:
    """What a pod (or a template: anything with metadata and spec) does that its level forbids."""
    minor = min(minor, LATEST)
    pod = Pod(annotations_of(template) if template.get("metadata") else {}, template.get("spec") or {}, minor)
    checks: tuple[_Dated, ...] = _BASELINE
    if level == "restricted":
        replaced = {check.replaces for check in _RESTRICTED if check.since <= minor}
        checks = tuple(check for check in _BASELINE if check.run not in replaced) + _RESTRICTED
    elif level == "privileged":
        checks = ()
    found = (check.run(pod) for check in checks if check.since <= minor)
    return [violation for violation in found if violation is not None]


def _list(items: Iterable[str]) -> str:
    return ", ".join(f'"{item}"' for item in items)


def _some(noun: str, names: Sequence[str]) -> str:
    """`container "a"`, `containers "a", "b"`."""
    return f"{noun if len(names) == 1 else noun + 's'} {_list(names)}"


def _setters(in_pod: bool, containers: Sequence[str]) -> str:
    parts = ["pod"] if in_pod else []
    if containers:
        parts.append(_some("container", containers))
    return " and ".join(parts)


def _use(names: Sequence[str]) -> str:
    return "uses" if len(names) == 1 else "use"


# baseline


def _app_armor(pod: Pod) -> Violation | None:
    def bad(security: Obj) -> bool:
        return _bad_profile(security, "appArmorProfile")

    values = sorted({s["appArmorProfile"].get("type", "") for s in _securities(pod) if bad(s)})
    prefix = "container.apparmor.security.beta.kubernetes.io/"
    notes = sorted(
        f"{key}={quoted(value)}"
        for key, value in pod.annotations.items()
        if key.startswith(prefix) and value not in ("", "runtime/default") and not value.startswith("localhost/")
    )
    setters = [part for part in (_setters(bad(pod.security), pod.where(bad)),) if part]
    if notes:
        setters.append("annotation" if len(notes) == 1 else "annotations")
    if not setters:
        return None
    values += notes
    reason = "forbidden AppArmor profile" + ("" if len(values) == 1 else "s")
    return Violation(reason, f"{' and '.join(setters)} must not set AppArmor profile type to {_list(values)}")


def _bad_profile(security: Obj, key: str) -> bool:
    profile = security.get(key)
    return profile is not None and profile.get("type") not in _PROFILES


def _securities(pod: Pod) -> list[Obj]:
    return [pod.security, *(c.get("securityContext") or {} for c in pod.containers())]


def _capabilities(pod: Pod) -> Violation | None:
    def added(security: Obj) -> set[str]:
        return set((security.get("capabilities") or {}).get("add") or ()) - _CAPABILITIES

    names = pod.where(added)
    if not names:
        return None
    extra = sorted(set().union(*(added(c.get("securityContext") or {}) for c in pod.containers())))
    what = f"must not include {_list(extra)} in securityContext.capabilities.add"
    return Violation("non-default capabilities", f"{_some('container', names)} {what}")


def _host_namespaces(pod: Pod) -> Violation | None:
    shared = [f"{key}=true" for key in ("hostNetwork", "hostPID", "hostIPC") if pod.spec.get(key)]
    return Violation("host namespaces", ", ".join(shared)) if shared else None


def _host_path(pod: Pod) -> Violation | None:
    names = [v["name"] for v in pod.spec.get("volumes") or () if v.get("hostPath") is not None]
    return Violation("hostPath volumes", _some("volume", names)) if names else None


def _host_ports(pod: Pod) -> Violation | None:
    used = {c["name"]: [p["hostPort"] for p in c.get("ports") or () if p.get("hostPort")] for c in pod.containers()}
    names = [name for name, ports in used.items() if ports]
    if not names:
        return None
    numbers = sorted({str(port) for ports in used.values() for port in ports})
    noun = "hostPort" if len(numbers) == 1 else "hostPorts"
    return Violation("hostPort", f"{_some('container', names)} {_use(names)} {noun} {', '.join(numbers)}")


def _probe_hosts(pod: Pod) -> Violation | None:
    found: dict[str, set[str]] = {}
    for container in pod.containers():
        lifecycle = container.get("lifecycle") or {}
        handlers = [container.get(key) for key in ("livenessProbe", "readinessProbe", "startupProbe")]
        handlers += [lifecycle.get("postStart"), lifecycle.get("preStop")]
        for handler in filter(None, handlers):
            for action in ("httpGet", "tcpSocket"):
                host = (handler.get(action) or {}).get("host")
                if host:
                    found.setdefault(container["name"], set()).add(host)
    if not found:
        return None
    names, hosts = sorted(found), sorted(set().union(*found.values()))
    what = f"{_use(names)} {_some('probe or lifecycle host', hosts)}"
    return Violation("probe or lifecycle host", f"{_some('container', names)} {what}")


def _privileged(pod: Pod) -> Violation | None:
    names = pod.where(lambda security: security.get("privileged"))
    what = "must not set securityContext.privileged=true"
    return Violation("privileged", f"{_some('container', names)} {what}") if names else None


def _proc_mount(pod: Pod) -> Violation | None:
    names = pod.where(lambda security: security.get("procMount", "Default") != "Default")
    if not names:
        return None
    kinds = sorted({s["procMount"] for s in _securities(pod) if s.get("procMount", "Default") != "Default"})
    return Violation(
        "procMount", f"{_some('container', names)} must not set securityContext.procMount to {_list(kinds)}"
    )


def _selinux(pod: Pod) -> Violation | None:
    allowed = _upto(_SELINUX_TYPES, pod.minor)

    def bad(security: Obj) -> bool:
        options = security.get("seLinuxOptions") or {}
        return options.get("type", "") not in allowed or bool(options.get("user") or options.get("role"))

    setters = _setters(bad(pod.security), pod.where(bad))
    if not setters:
        return None
    options = [s.get("seLinuxOptions") or {} for s in _securities(pod)]
    types = sorted({o.get("type", "") for o in options} - allowed)
    data = [_some("type", types)] if types else []
    data += [f"{key} may not be set" for key in ("user", "role") if any(o.get(key) for o in options)]
    text = f"{setters} set forbidden securityContext.seLinuxOptions: {'; '.join(data)}"
    return Violation("seLinuxOptions", text)


def _bad_seccomp(security: Obj) -> bool:
    return _bad_profile(security, "seccompProfile")


def _explicit_seccomp(pod: Pod) -> Violation | None:
    setters = _setters(_bad_seccomp(pod.security), pod.where(_bad_seccomp))
    if not setters:
        return None
    types = sorted({s["seccompProfile"].get("type", "") for s in _securities(pod) if _bad_seccomp(s)})
    return Violation("seccompProfile", f"{setters} must not set securityContext.seccompProfile.type to {_list(types)}")


def _seccomp(pod: Pod) -> Violation | None:
    return _explicit_seccomp(pod) if pod.minor >= 19 else _seccomp_annotations(pod)


def _seccomp_annotations(pod: Pod) -> Violation | None:
    """Before 1.19 profiles were annotations."""
    prefix = "container.seccomp.security.alpha.kubernetes.io/"
    keys = ["seccomp.security.alpha.kubernetes.io/pod", *(prefix + c["name"] for c in pod.containers())]
    bad = sorted(
        f"{key}={quoted(pod.annotations[key])}"
        for key in keys
        if key in pod.annotations
        and pod.annotations[key] not in ("runtime/default", "docker/default")
        and not pod.annotations[key].startswith("localhost/")
    )
    if not bad:
        return None
    noun = "annotation" if len(bad) == 1 else "annotations"
    return Violation("seccompProfile", f"forbidden {noun} {', '.join(bad)}")


def _sysctls(pod: Pod) -> Violation | None:
    allowed = _upto(_SYSCTLS, pod.minor)
    bad = [s["name"] for s in pod.security.get("sysctls") or () if s["name"] not in allowed]
    return Violation("forbidden sysctls", ", ".join(bad)) if bad else None


def _upto(table: dict[int, set[str]], minor: int) -> set[str]:
    return set().union(*(names for since, names in table.items() if since <= minor))


def _windows_host_process(pod: Pod) -> Violation | None:
    def bad(security: Obj) -> bool:
        return bool((security.get("windowsOptions") or {}).get("hostProcess"))

    setters = _setters(bad(pod.security), pod.where(bad))
    if not setters:
        return None
    return Violation("hostProcess", f"{setters} must not set securityContext.windowsOptions.hostProcess=true")


# restricted


def _privilege_escalation(pod: Pod) -> Violation | None:
    names = pod.where(lambda security: security.get("allowPrivilegeEscalation") is not False)
    if not names or pod.is_windows:
        return None
    what = "must set securityContext.allowPrivilegeEscalation=false"
    return Violation("allowPrivilegeEscalation != false", f"{_some('container', names)} {what}")


def _drop_all(pod: Pod) -> Violation | None:
    def keeps(security: Obj) -> bool:
        return "ALL" not in ((security.get("capabilities") or {}).get("drop") or ())

    def adds(security: Obj) -> set[str]:
        return set((security.get("capabilities") or {}).get("add") or ()) - {"NET_BIND_SERVICE"}

    keeping, adding = pod.where(keeps), pod.where(adds)
    if pod.is_windows or not (keeping or adding):
        return None
    details = []
    if keeping:
        details.append(f'{_some("container", keeping)} must set securityContext.capabilities.drop=["ALL"]')
    if adding:
        extra = sorted(set().union(*(adds(c.get("securityContext") or {}) for c in pod.containers())))
        what = f"must not include {_list(extra)} in securityContext.capabilities.add"
        details.append(f"{_some('container', adding)} {what}")
    return Violation("unrestricted capabilities", "; ".join(details))


def _volumes(pod: Pod) -> Violation | None:
    bad = [v for v in pod.spec.get("volumes") or () if not _VOLUMES & v.keys() and len(v) > 1]
    if not bad:
        return None
    names = [v["name"] for v in bad]
    kinds = sorted({next(key for key in v if key != "name") for v in bad})
    what = f"{_use(names)} {_some('restricted volume type', kinds)}"
    return Violation("restricted volume types", f"{_some('volume', names)} {what}")


def _non_root(pod: Pod) -> Violation | None:
    setters = _setters(
        pod.security.get("runAsNonRoot") is False, pod.where(lambda security: security.get("runAsNonRoot") is False)
    )
    if setters:
        return Violation("runAsNonRoot != true", f"{setters} must not set securityContext.runAsNonRoot=false")
    if pod.security.get("runAsNonRoot"):
        return None
    names = pod.where(lambda security: security.get("runAsNonRoot") is None)
    what = "must set securityContext.runAsNonRoot=true"
    return Violation("runAsNonRoot != true", f"pod or {_some('container', names)} {what}") if names else None


def _user(pod: Pod) -> Violation | None:
    setters = _setters(pod.security.get("runAsUser") == 0, pod.where(lambda security: security.get("runAsUser") == 0))
    return Violation("runAsUser=0", f"{setters} must not set runAsUser=0") if setters else None


def _own_seccomp(pod: Pod) -> Violation | None:
    if pod.is_windows:
        return None
    explicit = _explicit_seccomp(pod)
    if explicit is not None or pod.security.get("seccompProfile") is not None:
        return explicit
    names = pod.where(lambda security: security.get("seccompProfile") is None)
    what = 'must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost"'
    return Violation("seccompProfile", f"pod or {_some('container', names)} {what}") if names else None


@dataclass(frozen=True, slots=True)
class _Dated:
    run: Check
    since: int = 0
    replaces: Check | None = None  # the check of baseline that a stricter one makes needless


_BASELINE = (  # by upstream's name of the check, which is the order of its texts
    _Dated(_app_armor),
    _Dated(_capabilities),
    _Dated(_host_namespaces),
    _Dated(_host_path),
    _Dated(_host_ports),
    _Dated(_probe_hosts, 34),
    _Dated(_privileged),
    _Dated(_proc_mount),
    _Dated(_selinux),
    _Dated(_seccomp),
    _Dated(_sysctls),
    _Dated(_windows_host_process),
)
_RESTRICTED = (
    _Dated(_privilege_escalation, 8),
    _Dated(_drop_all, 22, _capabilities),
    _Dated(_volumes, 0, _host_path),
    _Dated(_non_root),
    _Dated(_user, 23),
    _Dated(_own_seccomp, 19, _seccomp),
)
