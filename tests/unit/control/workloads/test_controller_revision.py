"""Revisions of templates."""

from __future__ import annotations

import json

from havre.control.workloads.controller_revision import new_revision


def test_a_revision_has_the_bytes_that_go_makes_of_a_template() -> None:
    spec = {"restartPolicy": "Always", "containers": [{"name": "c", "image": "web:1", "resources": {}}]}
    template = {"metadata": {"labels": {"app": "web"}}, "spec": spec}
    owner = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "web", "namespace": "shop", "uid": "u"},
        "spec": {"template": template},
    }
    data = new_revision(owner, 1, "controller-revision-hash")["data"]
    assert json.dumps(data, separators=(",", ":")) == (
        '{"spec":{"template":{"$patch":"replace","metadata":{"labels":{"app":"web"}},'
        '"spec":{"containers":[{"image":"web:1","name":"c","resources":{}}],"restartPolicy":"Always"}}}}'
    )
