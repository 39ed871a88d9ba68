"""Which processes `havre up` makes of the parts: one per promise, all forked from one parent."""

from __future__ import annotations

from havre.app import run
from havre.app.config import Config
from havre.app.supervisor import Process

_COMMON = (
    "asyncio",
    "google.protobuf.text_format",
    "orjson",
    "uvloop",
    "havre.api.pod_resources",
    "havre.api.schemas",
    "havre.machinery.client",
    "havre.machinery.controller",
    "havre.machinery.kubeconfig",
    "havre.wire.http.server",
)
_NODE = (
    "havre.app.node",
    "havre.node.agent.agent",
    "havre.node.agent.endpoint",
    "havre.node.agent.reviews",
    "havre.node.agent.stats",
    "havre.node.agent.streams",
    "havre.node.network.dns",
    "havre.node.network.pods",
    "havre.node.network.services",
    "havre.node.network.uplinks",
    "havre.node.runtime.registry",
    "havre.node.runtime.serve",
)


_PLATFORM = ("havre.app.platform", "havre.platform.gitops.run")


def processes(config: Config) -> tuple[Process, ...]:
    """The truth everywhere; the machine where we may touch it; the products last, they use both."""
    control = Process("control", tuple(run.find(["control"])), _COMMON)
    node = Process("node", tuple(run.find(["node"])), _COMMON, _NODE)
    platform = Process("platform", tuple(run.find(["platform"])), _COMMON, _PLATFORM)
    return (control, node, platform) if config.with_node else (control, platform)
