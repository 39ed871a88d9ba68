"""ReplicaSet: so many pods of one template run, whoever deletes them.

reads   ReplicaSet; Pods of its namespace
writes  Pods; ReplicaSet.status
wakes   on ReplicaSet; its Pods; an orphan wakes the ReplicaSets that select it
source  k8s.io/kubernetes, pkg/controller/replicaset; the work is in `replicas`
"""

from __future__ import annotations

from havre.api.meta import GVK
from havre.control.workloads import replicas
from havre.machinery.controller import Controller

REPLICA_SET = GVK("apps", "v1", "ReplicaSet")

plan = replicas.plan
reconcile = replicas.reconcile


def controller() -> Controller:
    return replicas.controller(REPLICA_SET, "replicaset-controller")
