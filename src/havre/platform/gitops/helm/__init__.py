"""Helm releases: charts rendered exactly as Helm does it, releases that Helm itself can read and carry on.

    chart (.tgz) + values ──▶ engine ─▶ worker (Helm's own library, exec'd) ──▶ manifest, hooks, notes
    Secrets of type helm.sh/release.v1 ◀──▶ release ◀── actions: install, upgrade, rollback, uninstall, test

engine     asks the worker; limits of memory, time and size; a worker that misbehaves dies alone
worker     the program that runs there: the only one that loads Helm's library
repository charts from an index over HTTP or an OCI registry
chart      a packed chart: what is in it; packing one from a directory
manifest   rendered files → objects in Helm's order and hooks; pure
values     what `valuesFrom`, `values` and `targetPath` come to; pure
release    what Helm stores about a release, byte for byte readable by Helm 3 and 4
cluster    objects of a manifest in the cluster: scope, apply, delete, readiness
hooks      run the hooks of one event, one step at a time
actions    the procedures; every step is written into the release's record, so that a restart goes on from there

Source: helm.sh/helm v4 (pkg/action, pkg/release, pkg/storage); ADR 5.
"""
