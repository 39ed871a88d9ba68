"""ReplicationController: the ReplicaSet of before, with a plain map as its selector.

reads   ReplicationController; Pods of its namespace
writes  Pods; ReplicationController.status
wakes   on ReplicationController; its Pods; an orphan wakes those that select it
source  k8s.io/kubernetes, pkg/controller/replication, which wraps pkg/controller/replicaset; the work is in `replicas`
"""

from __future__ import annotations

from havre.api.meta import GVK
from havre.control.workloads import replicas
from havre.machinery.controller import Controller

REPLICATION_CONTROLLER = GVK("", "v1", "ReplicationController")

plan = replicas.plan
reconcile = replicas.reconcile


def controller() -> Controller:
    return replicas.controller(REPLICATION_CONTROLLER, "replication-controller")
