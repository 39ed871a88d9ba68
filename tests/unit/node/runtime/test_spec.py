from __future__ import annotations

import posixpath
from typing import Any

import pytest

from havre.node.runtime.capabilities import ALL, DEFAULT
from havre.node.runtime.errors import Invalid, Unsupported
from havre.node.runtime.spec import DeviceNode, ImageDefaults, Machine, Parts, Pod, build, process_for_exec, resources
from havre.node.runtime.users import User
from havre.wire.grpc.messages import messages

cri = messages("runtime.v1")

MACHINE = Machine("x86_64", frozenset(ALL))
IMAGE = ImageDefaults(env=("A=1", "PATH=/image"), entrypoint=("/entry",), cmd=("arg",), working_dir="/srv")
USER = User(1000, 1000, (1000, 2000), "app", "/srv/app")


def pod(*, privileged: bool = False, **kinds: str) -> Pod:
    config = cri.PodSandboxConfig(metadata=cri.PodSandboxMetadata(name="p", uid="u", namespace="n"))
    config.linux.security_context.privileged = privileged
    files = {"/etc/hosts": "/pods/hosts"}
    return Pod("s1", config, "host", kinds or {"network": "/ns/net", "ipc": "/ns/ipc", "uts": "/ns/uts"}, files, "/shm")


def container(**fields: Any) -> Any:
    config = cri.ContainerConfig(**fields)
    config.linux.security_context.namespace_options.pid = cri.CONTAINER
    return config


def parts(**fields: Any) -> Parts:
    given: dict[str, Any] = {"id": "c1", "rootfs": "/r", "cgroup": "/havre/c1", "user": USER, "sources": {}}
    return Parts(**given | fields)


def made(config: Any = None, machine: Machine = MACHINE, image: ImageDefaults = IMAGE, **fields: Any) -> Any:
    the_pod = fields.pop("pod", None) or pod()
    return build(machine, the_pod, image, config or container(), parts(**fields))


def mount(spec: Any, destination: str) -> Any:
    (found,) = [entry for entry in spec["mounts"] if entry["destination"] == destination]
    return found


# process


@pytest.mark.parametrize(
    ("command", "args", "expected"),
    [
        ([], [], ["/entry", "arg"]),
        ([], ["x"], ["/entry", "x"]),
        (["/c"], [], ["/c"]),
        (["/c"], ["x"], ["/c", "x"]),
    ],
)
def test_command_and_arguments_replace_those_of_the_image(
    command: list[str], args: list[str], expected: list[str]
) -> None:
    assert made(container(command=command, args=args))["process"]["args"] == expected


def test_no_command_at_all_is_refused() -> None:
    with pytest.raises(Invalid, match="no command"):
        made(image=ImageDefaults())


def test_the_environment_of_the_pod_wins_over_the_image() -> None:
    config = container(envs=[cri.KeyValue(key="A", value="2"), cri.KeyValue(key="B", value="x=y")])
    env = made(config)["process"]["env"]
    assert env == ["PATH=/image", "HOSTNAME=host", "A=2", "B=x=y", "HOME=/srv/app"]


@pytest.mark.parametrize("key", ["", "A=B", "A\0"])
def test_an_environment_variable_needs_a_name(key: str) -> None:
    with pytest.raises(Invalid, match="environment variable"):
        made(container(envs=[cri.KeyValue(key=key, value="x")]))


def test_user_directory_and_terminal() -> None:
    process = made(container(tty=True, working_dir="/a/../b"))["process"]
    assert process["user"] == {"uid": 1000, "gid": 1000, "additionalGids": [1000, 2000]}
    assert (process["cwd"], process["terminal"]) == ("/b", True)
    assert "TERM=xterm" in process["env"]


def test_a_relative_working_directory_is_refused() -> None:
    with pytest.raises(Invalid, match="working directory 'a': must be absolute"):
        made(container(working_dir="a"))


def test_capabilities_are_neither_ambient_nor_inherited() -> None:
    held = made()["process"]["capabilities"]
    assert set(held) == {"bounding", "effective", "permitted"}
    assert set(held["bounding"]) == DEFAULT


def test_out_of_memory_score_is_never_below_what_we_may_set() -> None:
    config = container()
    config.linux.resources.oom_score_adj = -997
    assert made(config)["process"]["oomScoreAdj"] == -997
    assert made(config, Machine("x86_64", frozenset(ALL), oom_score_floor=0))["process"]["oomScoreAdj"] == 0


def test_an_exec_is_as_the_first_process_with_its_own_terminal() -> None:
    process = {"env": ["A=1"], "args": ["x"], "terminal": False, "cwd": "/", "user": {"uid": 5}}
    assert process_for_exec(process, ["ls"], terminal=True) == {
        "env": ["A=1", "TERM=xterm"], "args": ["ls"], "terminal": True, "cwd": "/", "user": {"uid": 5},
    }  # fmt: skip
    with pytest.raises(Invalid, match="command is empty"):
        process_for_exec(process, [], terminal=False)


# isolation


def kinds(spec: Any) -> dict[str, str]:
    return {entry["type"]: entry.get("path", "") for entry in spec["linux"]["namespaces"]}


def test_namespaces_of_the_pod_are_joined_and_the_others_are_new() -> None:
    assert kinds(made()) == {
        "mount": "", "network": "/ns/net", "ipc": "/ns/ipc", "uts": "/ns/uts", "pid": "", "cgroup": "",
    }  # fmt: skip


def test_the_hosts_namespaces_are_not_listed() -> None:
    config = container()
    config.linux.security_context.namespace_options.pid = cri.NODE
    assert kinds(made(config, pod=pod(ipc="/ns/ipc"))) == {"mount": "", "ipc": "/ns/ipc", "cgroup": ""}


def test_pids_are_shared_with_the_pod_or_a_target() -> None:
    config = container()
    config.linux.security_context.namespace_options.pid = cri.POD
    assert kinds(made(config, pod=pod(pid="/proc/9/ns/pid")))["pid"] == "/proc/9/ns/pid"
    with pytest.raises(Invalid, match="made without one"):
        made(config)
    config.linux.security_context.namespace_options.pid = cri.TARGET
    assert kinds(made(config, target_pid=77))["pid"] == "/proc/77/ns/pid"


def test_on_cgroup_v1_there_is_no_cgroup_namespace() -> None:
    assert "cgroup" not in kinds(made(machine=Machine("x86_64", frozenset(ALL), unified=False)))


def test_a_privileged_container_needs_a_privileged_sandbox() -> None:
    config = container()
    config.linux.security_context.privileged = True
    with pytest.raises(Invalid, match="privileged sandbox"):
        made(config)
    spec = made(config, pod=pod(privileged=True))
    assert "seccomp" not in spec["linux"]
    assert "maskedPaths" not in spec["linux"]
    assert spec["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    assert "rw" in mount(spec, "/sys")["options"]
    assert len(spec["process"]["capabilities"]["bounding"]) == len(ALL)


def test_paths_are_masked_exactly_as_asked() -> None:
    config = container()
    config.linux.security_context.masked_paths.append("/proc/kcore")
    config.linux.security_context.readonly_paths.append("/proc/sys")
    linux = made(config)["linux"]
    assert (linux["maskedPaths"], linux["readonlyPaths"]) == (["/proc/kcore"], ["/proc/sys"])


def test_seccomp_is_none_default_or_a_file() -> None:
    config = container()
    assert "seccomp" not in made(config)["linux"]
    config.linux.security_context.seccomp.profile_type = cri.SecurityProfile.RuntimeDefault
    assert made(config)["linux"]["seccomp"]["defaultAction"] == "SCMP_ACT_ERRNO"
    config.linux.security_context.seccomp.profile_type = cri.SecurityProfile.Localhost
    profile = {"defaultAction": "SCMP_ACT_LOG"}
    assert made(config, seccomp=profile)["linux"]["seccomp"] == profile
    config.linux.security_context.seccomp.profile_type = cri.SecurityProfile.Unconfined
    assert "seccomp" not in made(config, seccomp=profile)["linux"]


def test_apparmor_is_refused_rather_than_ignored() -> None:
    config = container()
    config.linux.security_context.apparmor.profile_type = cri.SecurityProfile.Localhost
    config.linux.security_context.apparmor.localhost_ref = "mine"
    with pytest.raises(Unsupported, match="AppArmor"):
        made(config)
    spec = made(config, Machine("x86_64", frozenset(ALL), apparmor=True))
    assert spec["process"]["apparmorProfile"] == "mine"


def test_user_namespaces_are_refused_rather_than_ignored() -> None:
    config = container()
    config.linux.security_context.namespace_options.userns_options.mode = cri.POD
    with pytest.raises(Unsupported, match="user namespaces"):
        made(config)


# mounts


def bind(**fields: Any) -> Any:
    return cri.Mount(**{"container_path": "/data", "host_path": "/host"} | fields)


@pytest.mark.parametrize(
    ("fields", "options", "root"),
    [
        ({}, ["rbind", "rprivate", "rw"], None),
        ({"readonly": True}, ["rbind", "rprivate", "ro"], None),
        ({"readonly": True, "recursive_read_only": True}, ["rbind", "rprivate", "ro", "rro"], None),
        ({"propagation": 1}, ["rbind", "rslave", "rw"], "rslave"),
        ({"propagation": 2}, ["rbind", "rshared", "rw"], "rshared"),
    ],
)
def test_a_mount_has_access_and_propagation(fields: dict[str, Any], options: list[str], root: str | None) -> None:
    spec = made(container(mounts=[bind(**fields)]), sources={"/data": "/real"})
    assert mount(spec, "/data") == {"destination": "/data", "type": "bind", "source": "/real", "options": options}
    assert spec["linux"].get("rootfsPropagation") == root


def test_shared_propagation_of_one_mount_wins_for_the_root() -> None:
    mounts = [bind(container_path="/a", propagation=2), bind(container_path="/b", propagation=1)]
    spec = made(container(mounts=mounts), sources={"/a": "/x", "/b": "/y"})
    assert spec["linux"]["rootfsPropagation"] == "rshared"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"recursive_read_only": True}, "without readonly"),
        ({"recursive_read_only": True, "readonly": True, "propagation": 1}, "needs private"),
        ({"container_path": "data"}, "must be absolute"),
        ({"container_path": "/a/.."}, "would hide the image"),
    ],
)
def test_a_mount_that_makes_no_sense_is_refused(fields: dict[str, Any], words: str) -> None:
    wanted = bind(**fields)
    with pytest.raises(Invalid, match=words):
        made(container(mounts=[wanted]), sources={wanted.container_path: "/real"})


def test_mounts_are_ordered_so_that_none_hides_another() -> None:
    paths = ["/a/b/c", "/a", "/a/b"]
    spec = made(container(mounts=[bind(container_path=p) for p in paths]), sources=dict.fromkeys(paths, "/x"))
    assert [m["destination"] for m in spec["mounts"] if m["destination"].startswith("/a")] == ["/a", "/a/b", "/a/b/c"]


def test_what_the_pod_mounts_itself_is_not_mounted_twice() -> None:
    paths = ["/etc/hosts", "/dev/shm", "/vol", "/proc/"]  # noqa: S108
    mounts = [bind(container_path=path) for path in paths]
    sources = dict.fromkeys(paths, "/x") | {"/proc/": "/proc"}
    spec = made(container(mounts=mounts), sources=sources, volumes={"/vol": "/fresh"})
    for path in ("/etc/hosts", "/dev/shm", "/vol"):  # noqa: S108
        assert mount(spec, path)["source"] == "/x"
    assert mount(spec, "/proc")["type"] == "bind"


@pytest.mark.parametrize("path", ["/proc", "/proc/", "/proc/self/attr", "/proc/sys/kernel", "/x/../proc/1"])
def test_a_false_proc_is_refused_whoever_asks_for_it(path: str) -> None:
    with pytest.raises(Invalid, match="the machine's own /proc"):
        made(container(mounts=[bind(container_path=path)]), sources={path: "/emptied"})
    with pytest.raises(Invalid, match="the machine's own /proc"):
        made(container(), volumes={posixpath.normpath(path): "/fresh"})


def test_what_containers_may_be_shown_of_proc_in_another_way() -> None:
    wanted = bind(container_path="/proc/meminfo")
    spec = made(container(mounts=[wanted]), sources={"/proc/meminfo": "/lxcfs/meminfo"})
    assert mount(spec, "/proc/meminfo")["source"] == "/lxcfs/meminfo"


def test_a_mounted_dev_brings_its_own_children() -> None:
    spec = made(container(mounts=[bind(container_path="/dev")]), sources={"/dev": "/dev"})
    below = [m["destination"] for m in spec["mounts"] if m["destination"].startswith("/dev/")]
    assert below == ["/dev/shm"]  # noqa: S108 - the pod's; never a device file system of its own


def test_files_and_memory_of_the_pod_are_lent() -> None:
    config = container()
    config.linux.security_context.readonly_rootfs = True
    spec = made(config)
    assert spec["root"] == {"path": "/r", "readonly": True}
    assert mount(spec, "/etc/hosts")["options"] == ["rbind", "rprivate", "ro"]
    assert mount(spec, "/dev/shm")["source"] == "/shm"  # noqa: S108
    assert mount(spec, "/dev/shm")["options"][2:] == ["rw", "nosuid", "nodev", "noexec"]  # noqa: S108


# devices and resources


def test_devices_are_made_and_allowed() -> None:
    spec = made(devices=[DeviceNode("/dev/kvm", "c", 10, 232, 0o660, 0, 108, "rw")])
    assert spec["linux"]["devices"] == [
        {"path": "/dev/kvm", "type": "c", "major": 10, "minor": 232, "fileMode": 0o660, "uid": 0, "gid": 108}
    ]
    assert spec["linux"]["resources"]["devices"] == [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 10, "minor": 232, "access": "rw"},
    ]


def test_permissions_of_a_device_are_checked() -> None:
    with pytest.raises(Invalid, match="'rx'"):
        made(devices=[DeviceNode("/dev/x", "c", 1, 1, 0, 0, 0, "rx")])


def test_limits_that_are_zero_are_not_set() -> None:
    assert resources(MACHINE, cri.LinuxContainerResources()) == {}
    asked = cri.LinuxContainerResources(cpu_shares=512, cpuset_cpus="0-1", memory_limit_in_bytes=1 << 20)
    assert resources(MACHINE, asked) == {
        "cpu": {"shares": 512, "cpus": "0-1"},
        "memory": {"limit": 1 << 20, "swap": 1 << 20},
    }


def test_swap_is_limited_only_where_it_can_be() -> None:
    asked = cri.LinuxContainerResources(memory_limit_in_bytes=1, memory_swap_limit_in_bytes=3)
    assert resources(MACHINE, asked)["memory"] == {"limit": 1, "swap": 3}
    assert resources(Machine("x86_64", frozenset(), swap=False), asked)["memory"] == {"limit": 1}


def test_keys_of_cgroup_v2_need_it() -> None:
    asked = cri.LinuxContainerResources(unified={"memory.oom.group": "1"})
    assert resources(MACHINE, asked) == {"unified": {"memory.oom.group": "1"}}
    with pytest.raises(Unsupported, match="cgroup v1"):
        resources(Machine("x86_64", frozenset(), unified=False), asked)


def test_annotations_name_the_pod_and_never_come_from_the_image() -> None:
    config = container(metadata=cri.ContainerMetadata(name="main"), image=cri.ImageSpec(image="i"))
    assert made(config)["annotations"] == {
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.container-name": "main",
        "io.kubernetes.cri.image-name": "i",
        "io.kubernetes.cri.sandbox-id": "s1",
        "io.kubernetes.cri.sandbox-name": "p",
        "io.kubernetes.cri.sandbox-namespace": "n",
        "io.kubernetes.cri.sandbox-uid": "u",
    }


def test_the_version_is_one_that_crun_1_8_knows() -> None:
    assert made()["ociVersion"] == "1.0.2"
