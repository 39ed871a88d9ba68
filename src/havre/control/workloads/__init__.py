"""The controllers that make a cluster out of an API: they speak only `machinery.api`, to Havre's server or any other.

Of one kind each, in the shape of `machinery.controller` (`controllers`):

cluster_role_aggregation  ClusterRoles made of other ClusterRoles
deployment                one template runs as a ReplicaSet of its own; a new one takes over step by step
replica_set, replication_controller   so many pods of a template (`replicas`)
stateful_set              pods with a number, a name and storage of their own
daemon_set                one pod on every node that can have it
job, cron_job             pods that run to their end; at the times of a schedule
endpoint_slice, endpoints, endpoint_slice_mirroring   where the pods of a Service are (`backends`)
disruption                how many pods of a budget may be evicted now
node_lifecycle, taint_eviction   silent nodes, and pods that must leave a node

Woken by objects of every kind, on one light watch of all of them (`run`):

namespace           a namespace that is being deleted is emptied, then let go
garbage_collector   what nobody owns any more goes: in the background, in the foreground, or its dependents live on
resource_quota      what the objects of a namespace use of its quotas
service_account     the account `default` in every namespace
token_secret        secrets that hold a token of an account
root_ca             the certificate of the API server, as a ConfigMap in every namespace
storage_protection  claims, volumes and classes in use outlive their deletion
job, endpoints      pods whose Job is gone are given free; Endpoints whose Service is gone go
pod_garbage         pods that nobody will ever end
ttl_after_finished  Jobs that have been finished for long enough

Below them: `monitors` (the watch), `chore` (the loop), `graph` (who owns whom, pure), `served` (which kinds there are),
`pods` (facts about pods, pure), `dependents` (claim, create, delete), `controller_revision`, `template_hash`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from havre.control.workloads import (
    chore,
    cluster_role_aggregation,
    cron_job,
    daemon_set,
    deployment,
    disruption,
    endpoint_slice,
    endpoint_slice_mirroring,
    endpoints,
    job,
    namespace,
    node_lifecycle,
    pod_garbage,
    replica_set,
    replication_controller,
    resource_quota,
    root_ca,
    service_account,
    stateful_set,
    storage_protection,
    taint_eviction,
    token_secret,
    ttl_after_finished,
)
from havre.control.workloads.garbage_collector import GarbageCollector
from havre.control.workloads.monitors import Monitors
from havre.control.workloads.served import Discover
from havre.control.workloads.token_secret import Issue
from havre.machinery import controller
from havre.machinery.api import Api
from havre.machinery.controller import Controller


@dataclass(frozen=True, slots=True)
class Config:
    """What the controllers cannot learn from the API."""

    discover: Discover
    certificate: str  # PEM: the authority that signed the API server
    issue: Issue | None = None  # None: tokens in Secrets are somebody else's work


def controllers() -> list[Controller]:
    """The controllers of one kind each."""
    kinds = (
        cluster_role_aggregation,
        cron_job,
        daemon_set,
        deployment,
        disruption,
        endpoint_slice,
        endpoint_slice_mirroring,
        endpoints,
        job,
        node_lifecycle,
        replica_set,
        replication_controller,
        stateful_set,
        taint_eviction,
    )
    return [kind.controller() for kind in kinds]


def chores(config: Config, monitors: Monitors) -> list[chore.Chore]:
    """What is woken by every kind, but for the garbage collector."""
    every = [
        namespace.chore(config.discover),
        service_account.chore(),
        root_ca.chore(config.certificate),
        resource_quota.chore(monitors.served),
        storage_protection.chore(),
        endpoints.chore(),
        job.chore(),
        pod_garbage.chore(),
        ttl_after_finished.chore(),
    ]
    if config.issue is not None:
        every.append(token_secret.chore(config.certificate, config.issue))
    return every


async def run(api: Api, config: Config, *, ready: asyncio.Event | None = None) -> None:
    """Run everything here for ever. `ready` is set when every object has been seen once."""
    monitors = Monitors(api, config.discover)
    collector = GarbageCollector(api, monitors)
    running = [chore.Running(each, api, monitors) for each in chores(config, monitors)]
    async with asyncio.TaskGroup() as group:
        for work in (monitors.run(), collector.run(), *(each.run() for each in running)):
            group.create_task(work)
        group.create_task(controller.run(controllers(), api))
        await monitors.synced.wait()
        if ready is not None:
            ready.set()
