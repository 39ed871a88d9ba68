"""Volumes of pods on a real kernel, against the API in memory."""

from __future__ import annotations

import base64
import os
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from havre.api.meta import Obj, rfc3339
from havre.machinery.api import Ref
from havre.node import mounts
from havre.node.agent.protocol import GivenError, VolumeError
from havre.node.agent.volumes import ContainerMount, Mount, Propagation, Volumes
from havre.testing import FakeApi

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts and changes owners: needs root")

UID = "11111111-2222-3333-4444-555555555555"
NOW = 1_700_000_000.0


def config_map(name: str, **data: str) -> Obj:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "a"}, "data": data}


def secret(name: str, **data: str) -> Obj:
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    meta = {"name": name, "namespace": "a"}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "Opaque", "data": encoded}


def pod(*volumes: Obj, **spec: Any) -> Obj:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "a", "uid": UID, "labels": {"app": "x"}},
        "spec": {"nodeName": "n", "containers": [{"name": "c"}], "volumes": [*volumes], **spec},
    }


class Clock:
    """Time that stands still until it is told."""

    now = NOW

    def __call__(self) -> float:
        return self.now


class Issuer:
    """Gives token-1, token-2 …, each for as long as it is asked to live."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.asked: list[tuple[str, str, Obj]] = []

    async def __call__(self, namespace: str, account: str, spec: Obj) -> Obj:
        self.asked.append((namespace, account, spec))
        expires = rfc3339(self.clock.now + spec["expirationSeconds"])
        return {"status": {"token": f"token-{len(self.asked)}", "expirationTimestamp": expires}}


class Place:
    """Volumes with everything they need."""

    def __init__(self, root: Path, *objects: Obj) -> None:
        self.clock = Clock()
        self.issuer = Issuer(self.clock)
        self.api = FakeApi(*objects)
        self.root = root
        self.volumes = Volumes(root, self.api, self.issuer, clock=self.clock)

    async def mounts(self, made: Obj, *wanted: Obj, **variables: str) -> list[ContainerMount]:
        return await self.volumes.container_mounts(made, {"name": "c", "volumeMounts": [*wanted]}, variables)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    made = Place(
        tmp_path / "pods",
        config_map("settings", color="red", size="10"),
        secret("keys", password="s3cret"),
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "4"}}},
    )
    yield made
    await made.volumes.unmount(UID)
    assert mounts.below(tmp_path) == []


def looks(path: Path) -> tuple[str, int, int]:
    found = path.stat()
    return oct(stat.S_IMODE(found.st_mode)), found.st_uid, found.st_gid


async def test_a_config_map_is_readonly_files_and_follows_its_changes(place: Place) -> None:
    made = pod({"name": "v", "configMap": {"name": "settings", "defaultMode": 0o644}})
    mount = (await place.volumes.mount(made))["v"]
    assert mount == Mount(place.root / UID / "volumes" / "v", readonly=True)
    assert (mount.host_path / "color").read_text() == "red"
    assert looks(mount.host_path / "color") == ("0o644", 0, 0)
    await place.api.update(config_map("settings", color="blue"))
    await place.volumes.refresh(made)
    assert (mount.host_path / "color").read_text() == "blue"
    assert not (mount.host_path / "size").exists()


async def test_other_users_of_the_machine_see_no_volume(place: Place) -> None:
    await place.volumes.mount(pod({"name": "v", "secret": {"secretName": "keys"}}))
    assert (looks(place.root)[0], looks(place.root / UID)[0]) == ("0o750", "0o750")


async def test_secrets_and_tokens_never_touch_the_disk(place: Place) -> None:
    made = pod({"name": "v", "secret": {"secretName": "keys", "defaultMode": 0o400}})
    mount = (await place.volumes.mount(made))["v"]
    await place.volumes.mount(made)
    assert [m.filesystem for m in mounts.table() if m.point == str(mount.host_path)] == ["tmpfs"]
    assert (mount.host_path / "password").read_text() == "s3cret"
    assert looks(mount.host_path / "password") == ("0o400", 0, 0)


@pytest.mark.parametrize(
    ("volume", "says"),
    [
        ({"configMap": {"name": "no"}}, 'MountVolume.SetUp failed for volume "v" : configmap "no" not found'),
        ({"secret": {"secretName": "no"}}, 'secret "no" not found'),
        ({"configMap": {"name": "settings", "items": [{"key": "no", "path": "x"}]}}, "non-existent config key: no"),
        ({"configMap": {"name": "settings", "items": [{"key": "size", "path": "../x"}]}}, "invalid path"),
        ({"csi": {"driver": "x"}}, r"\(csi\) are not supported"),
        ({"image": {"reference": "x"}}, r"\(image\) are not supported"),
        ({"projected": {"sources": [{"clusterTrustBundle": {"path": "x"}}]}}, r"\(clusterTrustBundle\)"),
        ({"emptyDir": {"medium": "HugePages"}}, "unknown storage medium"),
        ({"persistentVolumeClaim": {"claimName": "no"}}, 'persistentvolumeclaim "no" not found'),
        ({"hostPath": {"path": "a"}}, "must be absolute"),
    ],
)
async def test_what_cannot_be_mounted_says_why(place: Place, volume: Obj, says: str) -> None:
    with pytest.raises(VolumeError, match=says):
        await place.volumes.mount(pod({"name": "v", **volume}))


async def test_optional_sources_may_be_missing_and_appear_later(place: Place) -> None:
    made = pod({"name": "v", "configMap": {"name": "later", "optional": True}})
    path = (await place.volumes.mount(made))["v"].host_path
    assert sorted(p.name for p in path.iterdir() if not p.name.startswith("..")) == []
    await place.api.create(config_map("later", key="x"))
    await place.volumes.refresh(made)
    assert (path / "key").read_text() == "x"


async def test_a_projected_volume_joins_its_sources(place: Place) -> None:
    sources = [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 1000, "audience": "vault"}},
        {"configMap": {"name": "settings", "items": [{"key": "color", "path": "etc/color", "mode": 0o600}]}},
        {"secret": {"name": "keys"}},
        {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
    ]
    made = pod({"name": "v", "projected": {"sources": sources, "defaultMode": 0o640}}, serviceAccountName="robot")
    path = (await place.volumes.mount(made))["v"].host_path
    names = ("token", "etc/color", "password", "labels")
    assert [(path / n).read_text() for n in names] == ["token-1", "red", "s3cret", 'app="x"']
    assert [looks(path / n)[0] for n in names] == ["0o640", "0o600", "0o640", "0o640"]
    bound = {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": UID}
    assert place.issuer.asked == [
        ("a", "robot", {"expirationSeconds": 1000, "boundObjectRef": bound, "audiences": ["vault"]})
    ]


async def test_a_token_is_replaced_after_four_fifths_of_its_life(place: Place) -> None:
    source = {"serviceAccountToken": {"path": "token", "expirationSeconds": 1000}}
    made = pod({"name": "v", "projected": {"sources": [source]}}, securityContext={"runAsUser": 1000, "fsGroup": 2000})
    path = (await place.volumes.mount(made))["v"].host_path / "token"
    assert looks(path) == ("0o640", 1000, 2000)
    place.clock.now += 799
    await place.volumes.refresh(made)
    assert path.read_text() == "token-1"
    place.clock.now += 1
    await place.volumes.refresh(made)
    assert path.read_text() == "token-2"
    assert looks(path) == ("0o640", 1000, 2000)


async def test_an_empty_dir_is_everybody_s_and_keeps_what_is_in_it(place: Place) -> None:
    made = pod({"name": "v", "emptyDir": {}})
    path = (await place.volumes.mount(made))["v"].host_path
    assert looks(path) == ("0o777", 0, 0)
    (path / "kept").touch(mode=0o600)
    await place.volumes.mount(made)
    assert (path / "kept").exists()


async def test_an_empty_dir_in_memory_has_its_size(place: Place) -> None:
    made = pod({"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}})
    path = (await place.volumes.mount(made))["v"].host_path
    assert looks(path)[0] == "0o777"
    with pytest.raises(OSError, match="No space left"):
        (path / "big").write_bytes(bytes(2 << 20))


async def test_fs_group_owns_new_volumes_once(place: Place) -> None:
    made = pod(
        {"name": "e", "emptyDir": {}},
        {"name": "c", "configMap": {"name": "settings", "defaultMode": 0o400}},
        securityContext={"fsGroup": 2000},
    )
    mounted = await place.volumes.mount(made)
    assert looks(mounted["e"].host_path) == ("0o2777", 0, 2000)
    assert looks(mounted["c"].host_path / "color") == ("0o440", 0, 2000)
    mine = mounted["e"].host_path / "mine"
    mine.touch(mode=0o600)
    await place.volumes.mount(made)
    assert looks(mine)[0] == "0o600"


@pytest.mark.parametrize(
    ("kind", "there", "works"),
    [
        ("", "nothing", True),
        ("DirectoryOrCreate", "nothing", True),
        ("Directory", "nothing", False),
        ("Directory", "directory", True),
        ("Directory", "file", False),
        ("FileOrCreate", "nothing", True),
        ("File", "file", True),
        ("File", "directory", False),
        ("Socket", "socket", True),
        ("Socket", "file", False),
        ("CharDevice", "device", True),
        ("BlockDevice", "device", False),
        ("Nonsense", "file", False),
    ],
)
async def test_a_host_path_is_what_its_type_says(
    place: Place, tmp_path: Path, kind: str, there: str, works: bool
) -> None:
    path = tmp_path / "x"
    match there:
        case "directory":
            path.mkdir()
        case "file":
            path.touch()
        case "device":
            path = Path("/dev/null")
        case "socket":
            with socket.socket(socket.AF_UNIX) as made_here:
                made_here.bind(str(path))
    made = pod({"name": "v", "hostPath": {"path": str(path), "type": kind}})
    if not works:
        with pytest.raises(VolumeError, match="hostPath type"):
            await place.volumes.mount(made)
        return
    assert (await place.volumes.mount(made))["v"] == Mount(path)
    assert path.is_file() if kind.startswith("File") else path.exists()


def claim(phase: str = "Bound") -> tuple[Obj, Obj]:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "volumeName": "pv"}
    meta = {"name": "data", "namespace": "a", "uid": "claim-1"}
    kind = {"apiVersion": "v1", "kind": "PersistentVolumeClaim"}
    bound = {**kind, "metadata": meta, "spec": {**spec, "storageClassName": ""}, "status": {"phase": phase}}
    return bound, {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv"}}


@pytest.mark.parametrize("kind", ["local", "hostPath"])
async def test_a_claim_is_what_it_is_bound_to(tmp_path: Path, kind: str) -> None:
    bound, volume = claim()
    (tmp_path / "disk").mkdir(mode=0o755)
    spec = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "claimRef": {"uid": "claim-1"}}
    volume["spec"] = {**spec, kind: {"path": str(tmp_path / "disk")}}
    place = Place(tmp_path / "pods", bound, volume)
    source = {"claimName": "data", "readOnly": True}
    made = pod({"name": "v", "persistentVolumeClaim": source}, securityContext={"fsGroup": 2000})
    assert (await place.volumes.mount(made))["v"] == Mount(tmp_path / "disk", readonly=True)
    assert (tmp_path / "disk").stat().st_gid == (2000 if kind == "local" else 0)
    (tmp_path / "disk/kept").touch()
    await place.volumes.unmount(UID)
    assert (tmp_path / "disk/kept").exists()


@pytest.mark.parametrize(
    ("phase", "uid", "source", "says"),
    [
        ("Pending", "claim-1", {"hostPath": {"path": "/x"}}, "is not bound"),
        ("Bound", "other", {"hostPath": {"path": "/x"}}, "bound to another claim"),
        ("Bound", "claim-1", {"nfs": {"server": "s", "path": "/x"}}, r"cannot mount \(nfs\)"),
        ("Bound", "claim-1", {"local": {"path": "/no/such/place"}}, "does not exist"),
    ],
)
async def test_a_claim_that_cannot_be_used_says_why(
    tmp_path: Path, phase: str, uid: str, source: Obj, says: str
) -> None:
    bound, volume = claim(phase)
    volume["spec"] = {"capacity": {"storage": "1Gi"}, "claimRef": {"uid": uid}, **source}
    place = Place(tmp_path / "pods", bound, volume)
    with pytest.raises(VolumeError, match=says):
        await place.volumes.mount(pod({"name": "v", "persistentVolumeClaim": {"claimName": "data"}}))


@pytest.mark.parametrize(("owner", "works"), [(UID, True), ("another", False)])
async def test_an_ephemeral_volume_is_the_pod_s_own_claim(tmp_path: Path, owner: str, works: bool) -> None:
    bound, volume = claim()
    bound["metadata"] |= {
        "name": "p-v",
        "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": owner}],
    }
    volume["spec"] = {
        "capacity": {"storage": "1Gi"},
        "claimRef": {"uid": "claim-1"},
        "hostPath": {"path": str(tmp_path)},
    }
    place = Place(tmp_path / "pods", bound, volume)
    made = pod({"name": "v", "ephemeral": {}})
    if works:
        assert await place.volumes.mount(made) == {"v": Mount(tmp_path)}
    else:
        with pytest.raises(VolumeError, match="was not created for pod a/p"):
            await place.volumes.mount(made)


async def test_a_root_that_fits_spares_the_walk_if_the_pod_says_so(tmp_path: Path) -> None:
    bound, volume = claim()
    disk = tmp_path / "disk"
    disk.mkdir()
    os.chown(disk, 0, 2000)
    disk.chmod(0o2775)
    (disk / "old").touch(mode=0o600)
    volume["spec"] = {"capacity": {"storage": "1Gi"}, "claimRef": {"uid": "claim-1"}, "local": {"path": str(disk)}}
    place = Place(tmp_path / "pods", bound, volume)
    source = {"name": "v", "persistentVolumeClaim": {"claimName": "data"}}
    await place.volumes.mount(pod(source, securityContext={"fsGroup": 2000, "fsGroupChangePolicy": "OnRootMismatch"}))
    assert looks(disk / "old") == ("0o600", 0, 2000)  # the directory's own bit gave the group, nothing the mode
    await place.volumes.unmount(UID)
    await place.volumes.mount(pod(source, securityContext={"fsGroup": 2000}))
    assert looks(disk / "old") == ("0o660", 0, 2000)


# containers


async def test_mounts_of_a_container_keep_order_readonly_and_propagation(place: Place) -> None:
    made = pod({"name": "e", "emptyDir": {}}, {"name": "c", "configMap": {"name": "settings"}})
    found = await place.mounts(
        made,
        {"name": "e", "mountPath": "/data", "mountPropagation": "Bidirectional"},
        {"name": "e", "mountPath": "relative", "readOnly": True, "recursiveReadOnly": "Enabled"},
        {"name": "c", "mountPath": "/etc/c"},
    )
    root = place.root / UID / "volumes"
    assert found == [
        ContainerMount("/data", root / "e", False, Propagation.BIDIRECTIONAL),
        ContainerMount("/relative", root / "e", True, recursive_readonly=True),
        ContainerMount("/etc/c", root / "c", True),
    ]
    assert found[0].cri() == {
        "container_path": "/data",
        "host_path": str(root / "e"),
        "readonly": False,
        "propagation": 2,
        "recursive_read_only": False,
    }


async def test_a_sub_path_is_made_mounted_once_and_removed(place: Place, tmp_path: Path) -> None:
    made = pod({"name": "e", "emptyDir": {}})
    wanted = {"name": "e", "mountPath": "/x", "subPathExpr": "$(POD)/deep"}
    first = (await place.mounts(made, wanted, POD="p-1"))[0].host_path
    (first / "written").touch()
    assert (place.root / UID / "volumes/e/p-1/deep/written").exists()
    assert looks(place.root / UID / "volumes/e/p-1")[0] == "0o777"
    assert (await place.mounts(made, wanted, POD="p-1"))[0].host_path == first
    assert len(mounts.below(first)) == 1
    await place.volumes.unmount(UID)
    await place.volumes.unmount(UID)
    assert (mounts.below(tmp_path), place.volumes.orphans([])) == ([], set())


async def test_a_file_of_a_config_map_can_be_mounted_alone(place: Place) -> None:
    made = pod({"name": "c", "configMap": {"name": "settings"}})
    (found,) = await place.mounts(made, {"name": "c", "mountPath": "/etc/color", "subPath": "color"})
    assert (found.host_path.read_text(), found.readonly) == ("red", True)


@pytest.mark.parametrize(
    ("link", "target"), [("out", "/etc"), ("up", "../../../../etc"), ("a/out", "/etc/passwd"), ("loop", "loop")]
)
async def test_a_link_in_the_volume_does_not_lead_a_sub_path_out(place: Place, link: str, target: str) -> None:
    made = pod({"name": "e", "emptyDir": {}})
    root = (await place.volumes.mount(made))["e"].host_path
    (root / link).parent.mkdir(exist_ok=True)
    (root / link).symlink_to(target)
    with pytest.raises(GivenError, match='failed to prepare subPath for volumeMount "e" of container "c"'):
        await place.mounts(made, {"name": "e", "mountPath": "/x", "subPath": link})


async def test_a_link_that_stays_in_the_volume_is_followed(place: Place) -> None:
    made = pod({"name": "e", "emptyDir": {}})
    root = (await place.volumes.mount(made))["e"].host_path
    (root / "real").mkdir()
    (root / "link").symlink_to("real")
    (found,) = await place.mounts(made, {"name": "e", "mountPath": "/x", "subPath": "link/made"})
    (found.host_path / "f").touch()
    assert (root / "real/made/f").exists()


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"subPath": "/etc"}, "must not be an absolute path"),
        ({"subPath": "a/../../b"}, r"must not contain '\.\.'"),
        ({"subPathExpr": "$(NO)"}, 'missing value for "NO"'),
        ({"subPathExpr": "$(UP)/x"}, r"must not contain '\.\.'"),
    ],
)
async def test_sub_paths_that_are_none_are_refused(place: Place, wanted: Obj, says: str) -> None:
    with pytest.raises(GivenError, match=says):
        await place.mounts(pod({"name": "e", "emptyDir": {}}), {"name": "e", "mountPath": "/x", **wanted}, UP="..")


async def test_pods_that_nobody_knows_are_found_after_a_restart(place: Place) -> None:
    await place.volumes.mount(pod({"name": "v", "secret": {"secretName": "keys"}}))
    after = Volumes(place.root, place.api, place.issuer)
    assert after.orphans(["other"]) == {UID}
    assert after.orphans([UID]) == set()
    await after.unmount(UID)
    assert after.orphans([]) == set()


async def test_unmounting_never_removes_what_is_mounted_in_a_volume(place: Place, tmp_path: Path) -> None:
    """A container with Bidirectional propagation left a mount; what is behind it is the host's."""
    made = pod({"name": "e", "emptyDir": {}})
    inside = (await place.volumes.mount(made))["e"].host_path / "deep" / "mnt"
    inside.mkdir(parents=True)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").touch()
    mounts.bind(str(tmp_path / "precious"), inside)
    await place.volumes.unmount(UID)
    assert (tmp_path / "precious/file").exists()
    assert not (place.root / UID).exists()


async def test_a_uid_is_no_path(place: Place) -> None:
    with pytest.raises(VolumeError, match="no name of a directory"):
        await place.volumes.unmount("../../etc")


async def test_a_ref_of_a_deleted_config_map_keeps_the_last_files(place: Place) -> None:
    made = pod({"name": "v", "configMap": {"name": "settings"}})
    path = (await place.volumes.mount(made))["v"].host_path
    await place.api.delete(Ref.of(config_map("settings")))
    with pytest.raises(VolumeError, match="not found"):
        await place.volumes.refresh(made)
    assert (path / "color").read_text() == "red"
