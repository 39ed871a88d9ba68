"""CronJob: a Job at every time of a schedule.

reads   CronJob; Jobs of its namespace
writes  Jobs (create; delete what is replaced or beyond the history); CronJob.status
wakes   on CronJob; its Jobs; time
source  k8s.io/kubernetes, pkg/controller/cronjob

A Job is named by its minute, so that starting it twice starts it once. Of times that were missed, only the last is made
up for, and only within startingDeadlineSeconds.

schedule   the times of a schedule (pure)
plan       which Job starts, which go, when to look again (pure)
reconcile  the thin half
"""

from __future__ import annotations

from havre.control.workloads.cron_job.reconcile import CRON_JOB, controller

__all__ = ["CRON_JOB", "controller"]
