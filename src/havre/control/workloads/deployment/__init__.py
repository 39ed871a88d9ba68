"""Deployment: one template runs as a ReplicaSet of its own; a new template takes over step by step.

reads   Deployment; ReplicaSets of its namespace; Pods, where the old ones must be gone first
writes  ReplicaSets (create, scale, annotate, adopt, release, delete); Deployment.status and its revision annotation
wakes   on Deployment; its ReplicaSets; an orphan wakes those that select it; a Pod wakes those of strategy Recreate
source  k8s.io/kubernetes, pkg/controller/deployment (sync.go, rolling.go, recreate.go, progress.go, util)

plan       what to do now (pure): create, scale, clean up
sets       the ReplicaSets as the plan sees them, revisions, the hash of a template (pure)
progress   the status: counts and conditions (pure)
reconcile  the thin half
"""

from __future__ import annotations

from havre.control.workloads.deployment.reconcile import DEPLOYMENT, controller

__all__ = ["DEPLOYMENT", "controller"]
