from __future__ import annotations

import os
from pathlib import Path

import pytest

from havre.node.beneath import openat2
from havre.node.runtime import lookup
from havre.node.runtime.errors import Invalid
from havre.node.runtime.lookup import devices, seccomp_profile, source, stop_signal, user, volume
from havre.node.runtime.spec import ImageDefaults
from havre.wire.grpc.messages import messages

cri = messages("runtime.v1")


@pytest.mark.parametrize(
    ("text", "number"),
    [("", 15), ("9", 9), ("USR1", 10), ("SIGUSR1", 10), ("sigint", 2), ("SIGRTMIN+3", 37), ("SIGRTMAX-1", 63)],
)
def test_the_stop_signal_of_an_image(text: str, number: int) -> None:
    assert stop_signal(cri.ContainerConfig(), ImageDefaults(stop_signal=text)) == number


@pytest.mark.parametrize("text", ["0", "65", "1000000", "SIGNONE", "TERM+99", "-9"])
def test_what_is_no_signal_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="not a signal"):
        stop_signal(cri.ContainerConfig(), ImageDefaults(stop_signal=text))


@pytest.mark.parametrize(
    ("name", "number"),
    [("SIGUSR2", 12), ("SIGRTMINPLUS15", 49), ("SIGRTMAXMINUS14", 50), ("SIGRTMAX", 64), ("SIGIOT", 6)],
)
def test_the_signal_of_the_pod_wins(name: str, number: int) -> None:
    config = cri.ContainerConfig(stop_signal=cri.Signal.Value(name))
    assert stop_signal(config, ImageDefaults(stop_signal="INT")) == number


def test_every_signal_of_cri_is_known() -> None:
    for number in range(1, 66):
        assert 1 <= stop_signal(cri.ContainerConfig(stop_signal=number), ImageDefaults()) <= 64


def test_a_host_path_is_made_and_its_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert source(cri.Mount(container_path="/x", host_path=str(tmp_path / "link"))) == str(tmp_path / "real")
    assert source(cri.Mount(container_path="/x", host_path=str(tmp_path / "a" / "b"))) == str(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize("path", ["", "relative", "/a\0b"])
def test_a_host_path_must_be_one(path: str) -> None:
    with pytest.raises(Invalid, match="must be absolute"):
        source(cri.Mount(container_path="/x", host_path=path))


def test_a_device_must_be_one() -> None:
    config = cri.ContainerConfig(devices=[cri.Device(container_path="/dev/n", host_path="/dev/null", permissions="r")])
    (found,) = devices(config)
    assert (found.path, found.kind, found.major, found.minor, found.access) == ("/dev/n", "c", 1, 3, "r")
    with pytest.raises(Invalid, match="not a device"):
        devices(cri.ContainerConfig(devices=[cri.Device(host_path="/etc/passwd")]))


def test_passwd_is_read_inside_the_image_only(tmp_path: Path) -> None:
    rootfs = tmp_path / "rootfs"
    (rootfs / "etc").mkdir(parents=True)
    (tmp_path / "passwd").write_text("app:x:7:7::/:\n")
    (rootfs / "etc" / "passwd").symlink_to(tmp_path / "passwd")
    security = cri.LinuxContainerSecurityContext()
    with pytest.raises(Invalid, match="'app' is not in"):
        user(rootfs, ImageDefaults(user="app"), security)
    (rootfs / "etc" / "group").write_text("x:x:5:\n")
    (rootfs / "etc" / "passwd").unlink()
    (rootfs / "etc" / "passwd").symlink_to("/etc/other")
    (rootfs / "etc" / "other").write_text("app:x:8:5::/:\n")
    assert user(rootfs, ImageDefaults(user="app"), security).uid == 8


def test_a_fifo_for_passwd_does_not_hang_us(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    os.mkfifo(tmp_path / "etc" / "passwd")
    assert user(tmp_path, ImageDefaults(user="5"), cri.LinuxContainerSecurityContext()).uid == 5


def test_a_volume_gets_the_images_files_but_never_the_hosts(tmp_path: Path) -> None:
    rootfs = tmp_path / "rootfs"
    (rootfs / "data" / "sub").mkdir(parents=True)
    (rootfs / "data" / "sub" / "f").write_text("x")
    (rootfs / "data" / "link").symlink_to("/etc")
    (rootfs / "data").chmod(0o750)
    volume(rootfs, "/data", tmp_path / "v")
    assert (tmp_path / "v" / "sub" / "f").read_text() == "x"
    assert (tmp_path / "v" / "link").readlink() == Path("/etc")
    assert (tmp_path / "v").stat().st_mode & 0o777 == 0o750

    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").touch()
    (rootfs / "out").symlink_to(tmp_path / "secret")
    volume(rootfs, "/out", tmp_path / "w")
    assert list((tmp_path / "w").iterdir()) == []


def test_a_seccomp_file_is_read_for_localhost_only(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text('{"defaultAction": "SCMP_ACT_LOG"}')
    security = cri.LinuxContainerSecurityContext()
    assert seccomp_profile(security) is None
    security.seccomp.profile_type = cri.SecurityProfile.Localhost
    security.seccomp.localhost_ref = str(path)
    assert seccomp_profile(security) == {"defaultAction": "SCMP_ACT_LOG"}
    security.seccomp.localhost_ref = "p.json"
    with pytest.raises(Invalid, match="absolute"):
        seccomp_profile(security)


def test_what_is_no_file_is_not_opened_for_passwd(tmp_path: Path) -> None:
    """Opening a device acts on the machine: it may be a watchdog. Of a FIFO, a writer would notice the reader."""
    (tmp_path / "etc").mkdir()
    os.mkfifo(tmp_path / "etc" / "passwd")
    writer = os.open(tmp_path / "etc" / "passwd", os.O_RDWR | os.O_NONBLOCK)
    os.write(writer, b"app:x:7:7::/:\n")
    try:
        with pytest.raises(Invalid, match="'app' is not in"):
            user(tmp_path, ImageDefaults(user="app"), cri.LinuxContainerSecurityContext())
    finally:
        os.close(writer)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes device nodes")
def test_a_device_in_place_of_passwd_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "etc").mkdir()
    os.mknod(tmp_path / "etc" / "passwd", 0o20666, os.makedev(1, 5))  # zero: reading it would give a megabyte
    opened: list[int] = []
    real = openat2

    def watched(directory: int, path: bytes, flags: int) -> int:
        opened.append(flags & ~os.O_CLOEXEC)
        return real(directory, path, flags)

    monkeypatch.setattr(lookup, "openat2", watched)
    assert user(tmp_path, ImageDefaults(user="7"), cri.LinuxContainerSecurityContext()).gid == 0
    assert opened == [os.O_PATH, os.O_PATH]


@pytest.mark.parametrize("name", ["dev", "proc", "sys"])
@pytest.mark.parametrize("target", ["/tmp", "../../tmp", "etc", "absent", ""])  # noqa: S108 - a name in an image
def test_an_image_whose_dev_proc_or_sys_leads_elsewhere_is_refused(tmp_path: Path, name: str, target: str) -> None:
    (tmp_path / "etc").mkdir()
    lookup.check_rootfs(tmp_path)
    (tmp_path / name).symlink_to(target) if target else (tmp_path / name).touch()
    with pytest.raises(Invalid, match=f"/{name} must be a directory"):
        lookup.check_rootfs(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    lookup.check_rootfs(tmp_path)
