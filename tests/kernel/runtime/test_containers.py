"""Containers on a real kernel: what runs, as whom, with which limits, and how it ends."""

# ruff: noqa: ASYNC110, ASYNC240 - a test may look at files, and at what others do, until a time limit

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from tests.kernel.runtime.node import Node, cri, image, needs_runtime
from tests.unit.node.runtime.archives import directory, file, symlink

from havre.wire.grpc.errors import GrpcError, Status

pytestmark = needs_runtime


def sh(node: Node, script: str, **fields: Any) -> Any:
    return node.container("sh", "-c", script, **fields)


async def test_a_container_runs_logs_and_ends_with_its_code(node: Node) -> None:
    status, log = await node.finished(await node.sandbox(), sh(node, "echo out; echo err >&2; exit 3"))

    assert (status.state, status.exit_code, status.reason) == (cri.CONTAINER_EXITED, 3, "Error")
    assert sorted(log) == ["err", "out"]
    assert status.created_at < status.started_at <= status.finished_at


async def test_success_is_completed(node: Node) -> None:
    status, _ = await node.finished(await node.sandbox(), node.container("true"))
    assert (status.exit_code, status.reason) == (0, "Completed")


async def test_death_by_signal_is_128_and_the_signal(node: Node) -> None:
    status, _ = await node.finished(await node.sandbox(), sh(node, "sh -c 'kill -SEGV $$'; exit $?"))
    assert status.exit_code == 139


async def test_log_lines_have_time_stream_and_tag(node: Node) -> None:
    container = await node.run(await node.sandbox(), sh(node, "echo hello >&2"))
    status = await node.ended(container)
    time, stream, tag, text = Path(status.log_path).read_text().split(" ", 3)
    assert (time[4], time[10], stream, tag, text) == ("-", "T", "stderr", "F", "hello\n")


async def test_hostname_environment_and_files_come_from_the_pod(node: Node) -> None:
    script = "hostname; cat /etc/hostname; echo $FROM_IMAGE $FROM_POD $HOSTNAME; grep nameserver /etc/resolv.conf"
    pod = node.pod("web")
    pod.dns_config.servers.append("10.96.0.10")
    config = sh(node, script, envs=[cri.KeyValue(key="FROM_POD", value="too")])
    _, log = await node.finished(await node.sandbox(pod), config)
    assert log == ["web", "web", "yes too web", "nameserver 10.96.0.10"]


async def test_a_pod_has_a_network_of_its_own_with_a_loopback(node: Node) -> None:
    _, log = await node.finished(
        await node.sandbox(), sh(node, "ls /sys/class/net; echo hi | nc -l -p 1 127.0.0.1 & sleep 0.1; nc 127.0.0.1 1")
    )
    assert log == ["lo", "hi"]


async def test_containers_of_a_pod_share_network_ipc_and_shm(node: Node) -> None:
    sandbox = await node.sandbox()
    first = await node.run(sandbox, sh(node, "echo shared > /dev/shm/x; sleep 60", name="one"))
    show = "cat /dev/shm/x; for n in net ipc uts; do ls -l /proc/self/ns/$n | tr -d ' ' | tail -c 13; done"
    _, log = await node.finished(sandbox, sh(node, f"sleep 0.1; {show}", name="two"))
    seen = (await node.exec(first, "sh", "-c", show)).stdout.decode().split()
    assert log == seen
    assert log[0] == "shared"


async def test_user_and_groups_come_from_the_image_and_the_pod(node: Node) -> None:
    config = sh(node, "id; echo $HOME; echo x > /dev/stderr")
    security = config.linux.security_context
    security.run_as_username = "app"
    security.supplemental_groups.append(5000)
    status, log = await node.finished(await node.sandbox(), config)
    assert log[0] == "uid=1000(app) gid=1000(app) groups=1000(app),2000(extra),5000"
    assert log[1:] == ["/srv/app", "x"]
    assert list(status.user.linux.supplemental_groups) == [1000, 2000, 5000]


async def test_strict_groups_ignore_the_image(node: Node) -> None:
    config = sh(node, "id -G")
    config.linux.security_context.run_as_user.value = 1000
    config.linux.security_context.supplemental_groups_policy = cri.Strict
    _, log = await node.finished(await node.sandbox(), config)
    assert log == ["1000"]


async def test_an_image_user_that_does_not_fit_never_becomes_root(node: Node) -> None:
    await node.runtime.images.import_archive(
        image(node.root / "user.tar", "registry.example/user:1", config={"User": "4294967296"})
    )
    with pytest.raises(GrpcError, match="outside 0 to 2147483647"):
        await node.create(await node.sandbox(), node.container("id", image="registry.example/user:1"))


async def test_passwd_that_is_a_link_out_of_the_image_is_not_followed(node: Node) -> None:
    evil = node.root / "passwd"
    evil.write_text("app:x:0:0::/:/bin/sh\n")
    members = [directory("etc"), symlink(str(evil), "etc/passwd")]
    await node.runtime.images.import_archive(
        image(node.root / "evil.tar", "registry.example/evil:1", members, {"User": "app"})
    )
    with pytest.raises(GrpcError, match="'app' is not in the image's /etc/passwd"):
        await node.create(await node.sandbox(), node.container("id", image="registry.example/evil:1"))


async def test_capabilities_seccomp_and_new_privileges(node: Node) -> None:
    config = sh(
        node, "grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status; mount -t tmpfs x /tmp 2>/dev/null; echo $?"
    )
    security = config.linux.security_context
    security.capabilities.drop_capabilities.append("ALL")
    security.capabilities.add_capabilities.append("NET_BIND_SERVICE")
    security.no_new_privs = True
    security.seccomp.profile_type = cri.SecurityProfile.RuntimeDefault
    _, log = await node.finished(await node.sandbox(), config)
    assert [line.split()[-1] for line in log] == ["0000000000000400", "1", "2", "1"]


async def test_runtime_default_seccomp_denies_what_anybody_may_do_without_it(node: Node) -> None:
    for profile, code in ((cri.SecurityProfile.Unconfined, "0"), (cri.SecurityProfile.RuntimeDefault, "1")):
        config = sh(node, "/bin/busybox unshare -U true 2>/dev/null; echo $?", name=f"p{profile}")
        config.linux.security_context.seccomp.profile_type = profile
        _, log = await node.finished(await node.sandbox(), config)
        assert log[-1] == code


async def test_apparmor_is_refused_where_the_kernel_has_none(node: Node) -> None:
    if Path("/sys/kernel/security/apparmor").exists():
        pytest.skip("this kernel has AppArmor")
    config = node.container("true")
    config.linux.security_context.apparmor.profile_type = cri.SecurityProfile.RuntimeDefault
    with pytest.raises(GrpcError, match="AppArmor") as refused:
        await node.create(await node.sandbox(), config)
    assert refused.value.status is Status.UNIMPLEMENTED


async def test_root_filesystem_and_mounts_can_be_read_only(node: Node) -> None:
    (node.root / "in").mkdir()
    (node.root / "in" / "file").write_text("from outside\n")
    config = sh(
        node,
        "touch /x 2>/dev/null || echo root is read-only; touch /in/x 2>/dev/null || echo so is /in; "
        "cat /in/file; touch /out/x",
        mounts=[
            cri.Mount(container_path="/in", host_path=str(node.root / "in"), readonly=True),
            cri.Mount(container_path="/out", host_path=str(node.root / "made" / "deep")),
        ],
    )
    config.linux.security_context.readonly_rootfs = True
    _, log = await node.finished(await node.sandbox(), config)
    assert log == ["root is read-only", "so is /in", "from outside"]
    assert (node.root / "made" / "deep" / "x").exists()


async def test_masked_and_read_only_paths_are_what_the_agent_says(node: Node) -> None:
    config = sh(
        node, "cat /proc/version | wc -c; ( echo 1 > /proc/sys/net/ipv4/ip_forward ) 2>/dev/null || echo refused"
    )
    config.linux.security_context.masked_paths.append("/proc/version")
    config.linux.security_context.readonly_paths.append("/proc/sys")
    _, log = await node.finished(await node.sandbox(), config)
    assert log == ["0", "refused"]


async def test_sysctls_are_set_in_the_pod_and_only_there(node: Node) -> None:
    before = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
    pod = node.pod()
    pod.linux.sysctls["net.ipv4.ip_local_port_range"] = "2000 3000"
    _, log = await node.finished(await node.sandbox(pod), sh(node, "cat /proc/sys/net/ipv4/ip_local_port_range"))
    assert log == ["2000\t3000"]
    assert Path("/proc/sys/net/ipv4/ip_local_port_range").read_text() == before


async def test_a_sysctl_of_the_host_is_refused(node: Node) -> None:
    pod = node.pod()
    pod.linux.sysctls["vm.swappiness"] = "1"
    with pytest.raises(GrpcError, match="it would change the host"):
        await node.sandbox(pod)


async def test_volumes_of_the_image_are_fresh_and_hold_its_files(node: Node) -> None:
    members = [directory("data"), file("data/seed", b"seed\n")]
    await node.runtime.images.import_archive(
        image(node.root / "v.tar", "registry.example/volume:1", members, {"Volumes": {"/data": {}}})
    )
    config = sh(node, "cat /data/seed; grep ' /data ' /proc/mounts | wc -l", image="registry.example/volume:1")
    _, log = await node.finished(await node.sandbox(), config)
    assert log == ["seed", "1"]


async def test_an_image_can_be_mounted(node: Node) -> None:
    mount = cri.Mount(
        container_path="/img", image=cri.ImageSpec(image="registry.example/busybox:1"), image_sub_path="etc"
    )
    config = sh(node, "grep app: /img/group; touch /img/x 2>/dev/null || echo read-only", mounts=[mount])
    _, log = await node.finished(await node.sandbox(), config)
    assert log == ["app:x:1000:", "read-only"]


async def test_limits_are_in_the_cgroup_and_can_be_changed(node: Node) -> None:
    resources = cri.LinuxContainerResources(memory_limit_in_bytes=64 << 20, cpu_quota=20000, cpu_period=100000)
    config = node.container("sleep", "60")
    config.linux.resources.CopyFrom(resources)
    container = await node.run(await node.sandbox(), config)
    assert _limits(node, container) == (64 << 20, 20000)

    changed = cri.LinuxContainerResources(memory_limit_in_bytes=128 << 20, cpu_quota=50000, cpu_period=100000)
    await node.call(
        "UpdateContainerResources", cri.UpdateContainerResourcesRequest(container_id=container, linux=changed)
    )
    assert _limits(node, container) == (128 << 20, 50000)
    assert (await node.status(container)).resources.linux.cpu_quota == 50000


def _limits(node: Node, container: str) -> tuple[int, int]:
    record = node.runtime.containers.get(container).record
    cgroups = node.runtime.containers._host.cgroups
    memory, cpu = cgroups.of("memory", record.cgroup), cgroups.of("cpu", record.cgroup)
    assert memory is not None
    assert cpu is not None
    if cgroups.unified:
        return int((memory / "memory.max").read_text()), int((cpu / "cpu.max").read_text().split()[0])
    return int((memory / "memory.limit_in_bytes").read_text()), int((cpu / "cpu.cfs_quota_us").read_text())


async def test_a_container_that_takes_too_much_memory_is_oom_killed(node: Node) -> None:
    config = node.container("sh", "-c", "exec dd if=/dev/zero of=/dev/null bs=200M count=1")
    config.linux.resources.memory_limit_in_bytes = 32 << 20
    status, _ = await node.finished(await node.sandbox(), config)
    assert (status.exit_code, status.reason) == (137, "OOMKilled")


async def test_every_process_is_in_the_v2_cgroup_of_its_container(node: Node) -> None:
    container = await node.run(await node.sandbox(), node.container("sleep", "60"))
    record = node.runtime.containers.get(container).record
    inside = (await node.exec(container, "cat", "/proc/self/cgroup")).stdout.decode()
    outside = Path(f"/proc/{record.init.pid}/cgroup").read_text()
    assert f"0::{record.cgroup}\n" in outside
    assert f"0::{record.cgroup}\n" in inside or node.runtime.containers._host.cgroups.unified
    assert node.runtime.containers._host.cgroups.id(record.cgroup) > 0


async def test_stop_asks_first(node: Node) -> None:
    trap = "trap 'echo asked; exit 7' TERM; echo up; while :; do sleep 0.05; done"
    container = await node.run(await node.sandbox(), sh(node, trap))
    await node.logged(container, "up")
    await node.call("StopContainer", cri.StopContainerRequest(container_id=container, timeout=20))
    status = await node.status(container)
    assert (status.exit_code, node.log(container)) == (7, ["up", "asked"])


async def test_stop_kills_after_the_grace(node: Node) -> None:
    container = await node.run(await node.sandbox(), sh(node, "trap '' TERM; sleep 60 & wait; sleep 60"))
    begun = asyncio.get_running_loop().time()
    await node.call("StopContainer", cri.StopContainerRequest(container_id=container, timeout=1))
    assert 1 <= asyncio.get_running_loop().time() - begun < 5
    assert (await node.status(container)).exit_code == 137


async def test_the_stop_signal_of_the_image_is_used(node: Node) -> None:
    await node.runtime.images.import_archive(
        image(node.root / "s.tar", "registry.example/stop:1", config={"StopSignal": "SIGUSR1"})
    )
    trap = "trap 'exit 9' USR1; echo up; while :; do sleep 0.05; done"
    container = await node.run(await node.sandbox(), sh(node, trap, image="registry.example/stop:1"))
    await node.logged(container, "up")
    await node.call("StopContainer", cri.StopContainerRequest(container_id=container, timeout=20))
    assert (await node.status(container)).exit_code == 9


async def test_a_command_that_is_not_there_is_a_start_error(node: Node) -> None:
    container = await node.create(await node.sandbox(), node.container("/no/such"))
    with pytest.raises(GrpcError, match="no/such"):
        await node.start(container)
    status = await node.status(container)
    assert (status.state, status.exit_code, status.reason) == (cri.CONTAINER_EXITED, 128, "StartError")
    assert "/no/such" in status.message


async def test_a_shared_pid_namespace_has_the_pause_process_as_its_first(node: Node) -> None:
    pod = node.pod(namespace_options=cri.NamespaceOption(pid=cri.POD))
    sandbox = await node.sandbox(pod)
    config = sh(node, "sleep 60 & sleep 0.1; ps -o pid,args | grep -c sleep; ls /proc/1/root 2>/dev/null | wc -l")
    config.linux.security_context.namespace_options.pid = cri.POD
    config.linux.security_context.capabilities.add_capabilities.append("SYS_PTRACE")
    _, log = await node.finished(sandbox, config)
    assert int(log[0]) >= 1
    assert log[1] == "0"  # even with SYS_PTRACE there is nothing to see behind process 1


async def test_a_container_can_join_the_pids_of_another(node: Node) -> None:
    sandbox = await node.sandbox()
    target = await node.run(sandbox, node.container("sleep", "61", name="target"))
    config = sh(node, "ps -o pid,args", name="debug")
    config.linux.security_context.namespace_options.pid = cri.TARGET
    config.linux.security_context.namespace_options.target_id = target
    _, log = await node.finished(sandbox, config)
    assert any(line.split() == ["1", "sleep", "61"] for line in log)


async def test_a_privileged_container_sees_devices_and_can_mount(node: Node) -> None:
    pod = node.pod(privileged=True, namespace_options=cri.NamespaceOption(pid=cri.CONTAINER))
    config = sh(node, "mount -t tmpfs x /tmp && echo mounted; ls /dev | grep -c kmsg")
    config.linux.security_context.privileged = True
    _, log = await node.finished(await node.sandbox(pod), config)
    assert log == ["mounted", "1"]


async def test_host_namespaces_are_the_hosts(node: Node) -> None:
    options = cri.NamespaceOption(network=cri.NODE, pid=cri.NODE, ipc=cri.NODE)
    config = sh(node, "for n in net pid ipc uts; do ls -l /proc/self/ns/$n | tr -d ' ' | tail -c 13; done")
    config.linux.security_context.namespace_options.CopyFrom(options)
    _, log = await node.finished(await node.sandbox(node.pod(namespace_options=options)), config)
    assert log == [os.readlink(f"/proc/self/ns/{kind}")[-12:] for kind in ("net", "pid", "ipc", "uts")]  # noqa: PTH115


async def test_a_log_is_reopened_after_rotation(node: Node) -> None:
    container = await node.run(await node.sandbox(), sh(node, "echo one; while :; do sleep 0.02; echo two; done"))
    await node.logged(container, "two")
    path = Path((await node.status(container)).log_path)
    path.rename(path.with_suffix(".old"))
    await node.call("ReopenContainerLog", cri.ReopenContainerLogRequest(container_id=container))
    async with asyncio.timeout(10):
        while not path.exists() or not path.read_text().endswith("two\n"):
            await asyncio.sleep(0.01)
    assert "one" in path.with_suffix(".old").read_text()


async def test_a_container_without_a_log_runs(node: Node) -> None:
    config = sh(node, "yes | head -c 1000000; exit 2")
    config.log_path = ""
    container = await node.run(await node.sandbox(), config)
    status = await node.ended(container)
    assert (status.exit_code, status.log_path) == (2, "")


async def test_long_lines_are_logged_in_parts_that_readers_take(node: Node) -> None:
    container = await node.run(await node.sandbox(), sh(node, "head -c 40000 /dev/zero | tr '\\0' x; echo"))
    status = await node.ended(container)
    lines = Path(status.log_path).read_text().splitlines()
    assert max(map(len, lines)) <= 16 * 1024
    assert [line.split(" ")[2] for line in lines][-1] == "F"
    assert "".join(node.log(container)) == "x" * 40000


async def test_a_terminal_is_one(node: Node) -> None:
    status, log = await node.finished(
        await node.sandbox(), sh(node, "test -t 0 && test -t 1 && echo tty; echo $TERM", tty=True, stdin=True)
    )
    assert [line.rstrip("\r") for line in log] == ["tty", "xterm"]
    assert status.exit_code == 0


@pytest.mark.parametrize("name", ["dev", "proc", "sys"])
async def test_an_image_whose_dev_is_a_link_makes_nothing_on_the_machine(node: Node, name: str) -> None:
    """crun 1.8 alone would make /dev/null and its like wherever the link points."""
    outside = node.root / "outside"
    outside.mkdir()
    members = [directory(str(outside)[1:]), symlink(str(outside), name)]
    await node.runtime.images.import_archive(image(node.root / "evil.tar", "registry.example/evil:1", members))
    with pytest.raises(GrpcError, match=f"/{name} must be a directory"):
        await node.run(await node.sandbox(), node.container("id", image="registry.example/evil:1"))
    assert list(outside.iterdir()) == []
