"""What /etc/hosts and /etc/resolv.conf say in a pod, and its name. Pure.

Source: k8s.io/kubernetes pkg/kubelet/kubelet_pods.go (managedHostsFileContent), pkg/kubelet/network/dns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from havre.api.meta import Obj, name_of, namespace_of
from havre.node.agent.configs import Dns

NAME: Final = 63  # characters of a host name that the kernel and DNS take
FULL_NAME: Final = 64  # characters of setHostnameAsFQDN: what the kernel takes
SERVERS: Final = 3  # name servers that libc asks
SEARCHES: Final = 32  # domains, as the API server admits
SEARCH_TEXT: Final = 2048  # characters of all of them

_LOCAL: Final = """\
# Kubernetes-managed hosts file.
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
fe00::0\tip6-mcastprefix
fe00::1\tip6-allnodes
fe00::2\tip6-allrouters
"""
_HOST: Final = "# Kubernetes-managed hosts file (host network).\n"


class HostNameError(ValueError):
    """A pod's full name is longer than a host name can be."""


# names


def host_name(pod: Obj) -> str:
    """What `hostname` says: what the pod asks for, or its own name, cut to what a host name can be."""
    wanted = (pod.get("spec") or {}).get("hostname") or name_of(pod)
    return str(wanted)[:NAME].rstrip("-.")


def host_domain(pod: Obj, cluster_domain: str) -> str:
    """The domain of a pod with a subdomain, else ""."""
    subdomain = (pod.get("spec") or {}).get("subdomain")
    return f"{subdomain}.{namespace_of(pod)}.svc.{cluster_domain}" if subdomain else ""


def kernel_name(pod: Obj, cluster_domain: str) -> str:
    """What the sandbox's host name is set to: with setHostnameAsFQDN the full one. Raises HostNameError."""
    name, domain = host_name(pod), host_domain(pod, cluster_domain)
    if not domain or not (pod.get("spec") or {}).get("setHostnameAsFQDN"):
        return name
    full = f"{name}.{domain}"
    if len(full) > FULL_NAME:
        raise HostNameError(
            f"failed to construct FQDN from pod hostname and cluster domain, FQDN {full} is too long "
            f"({FULL_NAME} characters is the max, {len(full)} characters requested)"
        )
    return full


# /etc/hosts


def hosts(pod: Obj, ips: Sequence[str], cluster_domain: str, host_file: str = "") -> str:
    """The file's content; `host_file` is the machine's own, which a pod on the host's network sees."""
    spec = pod.get("spec") or {}
    aliases = _aliases(spec.get("hostAliases") or ())
    if spec.get("hostNetwork"):
        return _HOST + host_file + aliases
    name, domain = host_name(pod), host_domain(pod, cluster_domain)
    names = f"{name}.{domain}\t{name}" if domain else name
    return _LOCAL + "".join(f"{ip}\t{names}\n" for ip in ips) + aliases


def _aliases(aliases: Iterable[Obj]) -> str:
    lines = ["\t".join([alias["ip"], *(alias.get("hostnames") or ())]) + "\n" for alias in aliases]
    return "".join(["\n# Entries added by HostAliases.\n", *lines]) if lines else ""


def wants_hosts(container: Obj, ips: Sequence[str]) -> bool:
    """Whether the file is mounted: there is an address to write, and the container brings none of its own."""
    mounts = container.get("volumeMounts") or ()
    return bool(ips) and not any(mount.get("mountPath") == "/etc/hosts" for mount in mounts)


# /etc/resolv.conf


@dataclass(frozen=True, slots=True)
class ClusterDns:
    """The cluster's own name servers and domain."""

    servers: tuple[str, ...]
    domain: str


def resolver(pod: Obj, cluster: ClusterDns, host: Dns) -> Dns:
    """By dnsPolicy and dnsConfig; `host` is what the machine itself uses."""
    spec = pod.get("spec") or {}
    policy = spec.get("dnsPolicy") or "ClusterFirst"
    if policy == "ClusterFirst" and spec.get("hostNetwork"):
        policy = "Default"
    if policy == "None":
        base = Dns()
    elif policy == "Default" or not cluster.servers:
        base = host if host.servers else Dns(("127.0.0.1",), (".",))
    else:
        zones = (f"{namespace_of(pod)}.svc.{cluster.domain}", f"svc.{cluster.domain}", cluster.domain)
        base = Dns(cluster.servers, (*zones, *host.searches), ("ndots:5",))
    return _fitting(_merged(base, spec.get("dnsConfig") or {}))


def _merged(base: Dns, own: Obj) -> Dns:
    options = {option.partition(":")[0]: option for option in base.options}
    for option in own.get("options") or ():
        value = option.get("value")
        options[option["name"]] = f"{option['name']}:{value}" if value else option["name"]
    return Dns(
        tuple(dict.fromkeys((*base.servers, *(own.get("nameservers") or ())))),
        tuple(dict.fromkeys((*base.searches, *(own.get("searches") or ())))),
        tuple(options.values()),
    )


def _fitting(dns: Dns) -> Dns:
    searches: list[str] = []
    for domain in dict.fromkeys(dns.searches):
        if len(searches) == SEARCHES or len(" ".join([*searches, domain])) > SEARCH_TEXT:
            break
        searches.append(domain)
    return Dns(dns.servers[:SERVERS], tuple(searches), dns.options)


def parse_resolver(text: str) -> Dns:
    """What a resolv.conf says; the last `search` and `options` count, as in libc's eyes."""
    servers: list[str] = []
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    for line in text.splitlines():
        words = line.split("#")[0].split(";")[0].split()
        match words:
            case ["nameserver", address, *_]:
                servers.append(address)
            case ["search", *domains]:
                searches = tuple(domain if domain == "." else domain.removesuffix(".") for domain in domains)
            case ["options", *words]:
                options = tuple(words)
    return Dns(tuple(servers), searches, options)
