"""The scheduler: every pod that waits for a node gets the best of those that can take it.

    Pods without a node → queue → filter → score → assume → bind        (or: say why not, make room, wait for a change)

cluster    nodes and the pods on them, with what they ask for: the scheduler's picture, fed by informers
filter     may this pod run on this node? one pure function per reason, upstream's words
affinity   labels of nodes, labels of other pods, spreading: the filters that look further
volumes    claims that a pod names: bound, waiting for the first consumer, missing
score      which of the nodes that can is best (pure)
preempt    which pods of lower priority would have to go (pure)
queue      who is next: priority, then age; who waits, how long
run        the loop, and what it writes: bindings, conditions, events

Source: k8s.io/kubernetes, pkg/scheduler (schedule_one.go, backend/queue, framework/plugins).
"""

from __future__ import annotations

from havre.control.scheduler.run import run

__all__ = ["run"]
