"""Job: pods that run until so many of them have succeeded, or too many have failed.

reads   Job; Pods of its namespace
writes  Pods (create, delete, adopt, release, their finalizer); Job.status
wakes   on Job; its Pods; an orphan wakes the Jobs that select it; time (deadline, back-off)
source  k8s.io/kubernetes, pkg/controller/job

No pod is counted twice, and none is lost, wherever the program stops. Every pod holds a finalizer until its end is
counted: its uid is written into `uncountedTerminatedPods`; then the finalizer is taken away; then the uid becomes a
number. Each is one step of a pass, taken from what is stored.

plan       what to do now (pure)
indexes    sets of completion indexes as the API writes them, `1,3-5` (pure)
policy     when a failure counts, when success is enough (pure)
pods       the pods of a Job: made, counted, timed (pure)
reconcile  the thin half; the chore that frees pods whose Job is gone
"""

from __future__ import annotations

from havre.control.workloads.job.reconcile import JOB, chore, controller

__all__ = ["JOB", "chore", "controller"]
