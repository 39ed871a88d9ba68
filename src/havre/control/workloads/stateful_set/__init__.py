"""StatefulSet: pods with a number, a name and storage of their own that they keep.

reads   StatefulSet; Pods, PersistentVolumeClaims and ControllerRevisions of its namespace
writes  Pods (create, delete, label, adopt, release); claims (create, owners); ControllerRevisions; StatefulSet.status
wakes   on StatefulSet; its Pods; an orphan wakes those that select it; a claim wakes those that may use it
source  k8s.io/kubernetes, pkg/controller/statefulset

plan       which pod is made or deleted next, what to say (pure)
pods       names, numbers, storage: what a pod of the set looks like (pure)
claims     who owns a claim, as the retention policy has it (pure)
reconcile  the thin half
"""

from __future__ import annotations

from havre.control.workloads.stateful_set.reconcile import STATEFUL_SET, controller

__all__ = ["STATEFUL_SET", "controller"]
