"""Getting images: pull secrets in turn, one pull for all, words."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable

import pytest
from tests.unit.node.agent.fake_runtime import FakeRuntime
from tests.unit.node.agent.pods import container, pod

from havre.api.meta import Obj
from havre.machinery.events import Note
from havre.node.agent.cri import Auth, RuntimeFault
from havre.node.agent.images import ImageError, Images
from havre.testing import FakeApi

pytestmark = pytest.mark.looptime

NAME = "registry.example/team/app:1"


def pull_secret(name: str, user: str) -> Obj:
    auths = {"auths": {"registry.example": {"username": user, "password": "p"}}}
    data = {".dockerconfigjson": base64.b64encode(json.dumps(auths).encode()).decode()}
    meta = {"name": name, "namespace": "default"}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": meta,
        "type": "kubernetes.io/dockerconfigjson",
        "data": data,
    }


async def direct(work: Awaitable[str]) -> str:
    return await work


async def ensure(images: Images, spec: Obj, image: str = NAME, policy: str = "Always") -> tuple[str, list[str]]:
    notes: list[Note] = []
    wanted = {**container("app"), "image": image, "imagePullPolicy": policy}
    ready = await images.ensure(spec, wanted, {}, notes.append, direct)
    return ready.reference, [f"{n.reason}: {n.message}" for n in notes]


async def test_pulled_image_is_told_with_its_time_and_size() -> None:
    runtime = FakeRuntime()
    runtime.pullable.add(NAME)
    runtime.pull_takes = 1.5
    got, notes = await ensure(Images(runtime, FakeApi()), pod())
    assert got == f"sha256:{NAME}"
    assert notes == [
        f'Pulling: Pulling image "{NAME}"',
        f'Pulled: Successfully pulled image "{NAME}" in 1.500s (1.500s including waiting). Image size: 0 bytes.',
    ]


async def test_image_that_is_here_is_not_pulled() -> None:
    runtime = FakeRuntime()
    runtime.know(NAME)
    _, notes = await ensure(Images(runtime, FakeApi()), pod(), policy="IfNotPresent")
    assert notes == [f'Pulled: Container image "{NAME}" already present on machine']
    assert runtime.pulls == []


async def test_short_name_means_the_hub() -> None:
    runtime = FakeRuntime()
    runtime.pullable.add("docker.io/library/nginx:latest")
    await ensure(Images(runtime, FakeApi()), pod(), image="nginx")
    assert runtime.pulls == [("docker.io/library/nginx:latest", None)]


async def test_secrets_of_the_pod_are_tried_in_turn() -> None:
    runtime = FakeRuntime()
    api = FakeApi(pull_secret("one", "first"), pull_secret("two", "second"))
    spec = pod(imagePullSecrets=[{"name": "one"}, {"name": "gone"}, {"name": "two"}])
    with pytest.raises(ImageError) as error:
        await ensure(Images(runtime, api), spec)
    assert runtime.pulls == [(NAME, Auth("first", "p")), (NAME, Auth("second", "p"))]
    assert (error.value.reason, str(error.value)) == ("ErrImagePull", f"[pull {NAME}: not found]")


async def test_broken_secret_does_not_stop_a_pull_that_needs_none() -> None:
    runtime = FakeRuntime()
    runtime.pullable.add(NAME)
    broken = {**pull_secret("one", "x"), "data": {".dockerconfigjson": base64.b64encode(b'{"auths": 1}').decode()}}
    await ensure(Images(runtime, FakeApi(broken)), pod(imagePullSecrets=[{"name": "one"}]))
    assert runtime.pulls == [(NAME, None)]


async def test_registry_that_is_down_has_its_own_reason() -> None:
    runtime = FakeRuntime()
    runtime.faults["pull"] = RuntimeFault("UNAVAILABLE", "RegistryUnavailable: no route")
    with pytest.raises(ImageError) as error:
        await ensure(Images(runtime, FakeApi()), pod())
    assert error.value.reason == "RegistryUnavailable"
    assert str(error.value) == f"image pull failed for {NAME} because the registry is unavailable: no route"


async def test_same_image_is_pulled_once_for_all_who_wait() -> None:
    runtime = FakeRuntime()
    runtime.pullable.add(NAME)
    runtime.pull_takes = 2
    images = Images(runtime, FakeApi())
    await asyncio.gather(*(ensure(images, pod(meta={"uid": f"u{n}"})) for n in range(5)))
    assert len(runtime.pulls) == 1


async def test_pull_goes_on_for_others_when_one_gives_up() -> None:
    runtime = FakeRuntime()
    runtime.pullable.add(NAME)
    runtime.pull_takes = 2
    images = Images(runtime, FakeApi())
    first = asyncio.ensure_future(ensure(images, pod()))
    second = asyncio.ensure_future(ensure(images, pod(meta={"uid": "u2"})))
    await asyncio.sleep(1)
    first.cancel()
    assert (await second)[0] == f"sha256:{NAME}"
    assert len(runtime.pulls) == 1


async def test_back_off_is_of_each_pod_and_image_alone() -> None:
    runtime = FakeRuntime()
    images = Images(runtime, FakeApi())
    for expected in ("ErrImagePull", "ImagePullBackOff", "ImagePullBackOff"):
        with pytest.raises(ImageError) as error:
            await ensure(images, pod())
        assert error.value.reason == expected
    with pytest.raises(ImageError) as error:
        await ensure(images, pod(meta={"uid": "another"}))
    assert error.value.reason == "ErrImagePull"
    await asyncio.sleep(10.1)
    runtime.pullable.add(NAME)
    assert (await ensure(images, pod()))[0] == f"sha256:{NAME}"
