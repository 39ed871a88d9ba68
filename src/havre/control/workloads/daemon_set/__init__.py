"""DaemonSet: one pod on every node that can have it.

reads   DaemonSet; Nodes; Pods and ControllerRevisions of its namespace
writes  Pods (create for a named node, delete, adopt, release); ControllerRevisions; DaemonSet.status
wakes   on DaemonSet; its Pods; an orphan wakes those that select it; a Node wakes all
source  k8s.io/kubernetes, pkg/controller/daemon (daemon_controller.go, update.go, util)

plan       which nodes miss a pod, which pods go, what to say (pure)
reconcile  the thin half
"""

from __future__ import annotations

from havre.control.workloads.daemon_set.reconcile import DAEMON_SET, controller

__all__ = ["DAEMON_SET", "controller"]
