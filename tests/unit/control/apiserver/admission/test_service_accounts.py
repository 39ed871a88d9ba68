"""ServiceAccount: which account a pod runs as, and where it finds its token."""

from __future__ import annotations

import re
from typing import Any

import pytest

from havre.api.errors import Forbidden
from havre.control.apiserver.admission.service_accounts import ServiceAccount
from havre.machinery.admission import Operation

CREATE = Operation.CREATE
MOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


async def nap(_seconds: float) -> None:
    return None


async def test_a_pod_gets_the_default_account_and_its_token(objects: Any, ask: Any, pod: Any) -> None:
    req = ask(CREATE, "pods", pod({"initContainers": [{"name": "i"}]}))
    await ServiceAccount(objects).admit(req)
    spec = req.obj["spec"]
    assert (spec["serviceAccountName"], spec["serviceAccount"]) == ("default", "default")
    (volume,) = spec["volumes"]
    assert re.fullmatch(r"kube-api-access-[bcdfghjklmnpqrstvwxz2456789]{5}", volume["name"])
    assert volume["projected"] == {
        "defaultMode": 420,
        "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"items": [{"key": "ca.crt", "path": "ca.crt"}], "name": "kube-root-ca.crt"}},
            {
                "downwardAPI": {
                    "items": [
                        {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}, "path": "namespace"}
                    ]
                }
            },
        ],
    }
    mount = {"mountPath": MOUNT, "name": volume["name"], "readOnly": True}
    assert spec["containers"][0]["volumeMounts"] == [mount]
    assert spec["initContainers"][0]["volumeMounts"] == [mount]


async def test_a_second_pass_adds_nothing(objects: Any, ask: Any, pod: Any) -> None:
    req, plug = ask(CREATE, "pods", pod()), ServiceAccount(objects)
    await plug.admit(req)
    before = repr(req.obj)
    await plug.admit(req)
    await plug.validate(req)
    assert repr(req.obj) == before


@pytest.mark.parametrize(
    ("of_pod", "of_account", "mounted"), [(None, False, False), (True, False, True), (False, True, False)]
)
async def test_the_wish_of_the_pod_wins_over_that_of_the_account(
    objects: Any, ask: Any, pod: Any, *, of_pod: bool | None, of_account: bool, mounted: bool
) -> None:
    account = {"metadata": {"name": "a", "namespace": "default"}, "automountServiceAccountToken": of_account}
    objects.add("serviceaccounts", {**account, "imagePullSecrets": [{"name": "registry"}]})
    spec = {"serviceAccountName": "a"} | ({} if of_pod is None else {"automountServiceAccountToken": of_pod})
    req = ask(CREATE, "pods", pod(spec))
    await ServiceAccount(objects).admit(req)
    assert ("volumes" in req.obj["spec"]) is mounted
    assert req.obj["spec"]["imagePullSecrets"] == [{"name": "registry"}]


async def test_a_container_that_mounts_something_there_keeps_it(objects: Any, ask: Any, pod: Any) -> None:
    req = ask(
        CREATE,
        "pods",
        pod({"volumes": [{"name": "v", "emptyDir": {}}]}, volumeMounts=[{"name": "v", "mountPath": MOUNT}]),
    )
    await ServiceAccount(objects).admit(req)
    assert req.obj["spec"]["volumes"] == [{"name": "v", "emptyDir": {}}]


async def test_an_account_that_is_missing_refuses_the_pod(objects: Any, ask: Any, pod: Any) -> None:
    with pytest.raises(Forbidden) as refused:
        await ServiceAccount(objects).admit(ask(CREATE, "pods", pod({"serviceAccountName": "nosuch"})))
    assert refused.value.message == (
        'pods "web" is forbidden: error looking up service account default/nosuch: serviceaccount "nosuch" not found'
    )


async def test_the_default_account_of_a_new_namespace_is_waited_for(objects: Any, ask: Any, pod: Any) -> None:
    naps: list[float] = []

    async def appear(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            objects.add("serviceaccounts", {"metadata": {"name": "default", "namespace": "new"}})

    await ServiceAccount(objects, appear).admit(ask(CREATE, "pods", pod(), namespace="new"))
    assert naps == [0.1, 0.1, 0.1]
    with pytest.raises(Forbidden, match='serviceaccount "default" not found'):
        await ServiceAccount(objects, nap).admit(ask(CREATE, "pods", pod(), namespace="never"))


async def test_a_mirror_pod_has_no_rights_in_the_api(objects: Any, ask: Any, pod: Any) -> None:
    plug = ServiceAccount(objects)
    for spec, why in (
        ({"serviceAccountName": "default"}, "a mirror pod may not reference service accounts"),
        ({"volumes": [{"name": "v", "secret": {"secretName": "s"}}]}, "a mirror pod may not reference secrets"),
        (
            {"volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]},
            "a mirror pod may not use ServiceAccountToken volume projections",
        ),
    ):
        mirror = pod(spec)
        mirror["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "x"}
        with pytest.raises(Forbidden, match=why):
            await plug.admit(ask(CREATE, "pods", mirror))


async def test_an_account_may_limit_the_secrets_of_its_pods(objects: Any, ask: Any, pod: Any) -> None:
    annotations = {"kubernetes.io/enforce-mountable-secrets": "true"}
    metadata = {"name": "strict", "namespace": "default", "annotations": annotations}
    objects.add("serviceaccounts", {"metadata": metadata, "secrets": [{"name": "good"}]})
    plug, spec = ServiceAccount(objects), {"serviceAccountName": "strict"}
    env = [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "good", "key": "k"}}}]
    await plug.validate(ask(CREATE, "pods", pod(spec, env=env)))
    bad = pod(spec, envFrom=[{"secretRef": {"name": "bad"}}])
    with pytest.raises(Forbidden) as refused:
        await plug.validate(ask(CREATE, "pods", bad))
    assert refused.value.message == (
        'pods "web" is forbidden: container c with envFrom referencing secret.secretName="bad" is not allowed because '
        "service account strict does not reference that secret"
    )
