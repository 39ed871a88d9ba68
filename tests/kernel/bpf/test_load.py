"""Objects, maps, links and pins on a real kernel."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from havre.node import bpf as package
from havre.node.bpf import links
from havre.node.bpf.call import BpfError, info
from havre.node.bpf.links import At, Place, attach_cgroup, detach, place
from havre.node.bpf.load import Code, LoadFailed, Object, code, code_at
from havre.node.bpf.maps import BATCH, Layout, Map, possible_cpus
from havre.node.bpf.pins import Pins, cgroup_root, is_bpffs
from havre.node.bpf.probe import FEATURES, OK, missing, probe

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

NODE = Path(package.__file__).parents[1]


class Key(NamedTuple):
    value: int


class Value(NamedTuple):
    value: int


KEY, VALUE = Layout("__u32", "=I", Key), Layout("__u64", "=Q", Value)


@pytest.fixture
def pins(tmp_path: Path) -> Iterator[Pins]:
    pins = Pins.open("test", tmp_path / "run")
    yield pins
    pins.release()
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()


@pytest.fixture
def cgroup() -> Iterator[Path]:
    path = cgroup_root() / f"havre-test-load-{os.getpid()}"
    path.mkdir()
    yield path
    if path.is_dir():
        path.rmdir()


@pytest.fixture
def compiled(tmp_path: Path) -> Callable[[str], Code]:
    """Compiles a small program; only developers have what that needs."""
    clang = shutil.which("clang-14")
    if clang is None:
        pytest.skip("needs clang-14")

    def compile_it(source: str) -> Code:
        text = f'#include "{NODE}/bpf/include/havre.h"\n{source}'
        made = tmp_path / "small.bpf.o"
        headers = f"-I/usr/include/{os.uname().machine}-linux-gnu"
        words = [clang, "-target", "bpf", "-O2", "-g", headers, "-xc", "-c", "-", "-o", str(made)]
        subprocess.run(words, input=text.encode(), check=True, timeout=30)
        return code_at(made)

    return compile_it


NUMBERS = "MAP(numbers, BPF_MAP_TYPE_HASH, __u32, __u64, 40000, BPF_F_NO_PREALLOC);\n"
PASS = 'SEC("tc") int pass(struct __sk_buff *skb) { return -1; }\n'
CONNECT = 'SEC("cgroup/connect4") int connect4(struct bpf_sock_addr *ctx) { return ANSWER; }\n'

# objects


@pytest.mark.parametrize("path", sorted(NODE.rglob("*.bpf.o")), ids=lambda path: path.name)
def test_every_packaged_object_loads(path: Path) -> None:
    with Object.load(code_at(path)) as loaded:
        assert loaded.programs
        assert loaded.maps


def test_an_object_is_found_beside_the_modules_of_its_package() -> None:
    assert code("havre.node.network", "services").elf[:4] == b"\x7fELF"


def test_what_is_no_object_is_refused() -> None:
    with pytest.raises(LoadFailed, match=r"open nothing\.bpf\.o: ENOEXEC"):
        Object.load(Code("nothing", b"nothing"))


def test_a_refused_program_says_why(compiled: Callable[[str], Code]) -> None:
    bad = compiled('SEC("tc") int bad(struct __sk_buff *skb) { return *(int *)(long)skb->data; }\n')
    with pytest.raises(
        LoadFailed, match=r"(?s)load small\.bpf\.o: EACCES .*the verifier says:.*invalid access to packet"
    ):
        Object.load(bad)


# maps


def test_a_pinned_map_keeps_what_it_holds(compiled: Callable[[str], Code], pins: Pins) -> None:
    small = compiled(NUMBERS + PASS)
    with Object.load(small, pins) as first:
        Map(first.maps["numbers"], KEY, VALUE).update(Key(1), Value(7))
    with Object.load(small, pins) as second:
        assert Map(second.maps["numbers"], KEY, VALUE).lookup(Key(1)) == Value(7)
    assert pins.names() == ["numbers"]


def test_a_map_of_another_shape_is_made_anew(compiled: Callable[[str], Code], pins: Pins) -> None:
    with Object.load(compiled(NUMBERS + PASS), pins) as first:
        Map(first.maps["numbers"], KEY, VALUE).update(Key(1), Value(7))
    with Object.load(compiled(NUMBERS.replace("40000", "50000") + PASS), pins) as second:
        numbers = Map(second.maps["numbers"], KEY, VALUE)
        assert (numbers.info.max_entries, numbers.lookup(Key(1))) == (50000, None)


def test_a_layout_of_another_size_is_refused(compiled: Callable[[str], Code]) -> None:
    said = r"open map numbers: 4\+8 bytes an entry, __u32 and __u32 have 4\+4"
    with Object.load(compiled(NUMBERS + PASS)) as loaded, pytest.raises(BpfError, match=said):
        Map(loaded.maps["numbers"], KEY, KEY, "numbers")


def test_thousands_of_entries_go_in_and_out_by_batches(compiled: Callable[[str], Code]) -> None:
    count = 2 * BATCH + 5
    with Object.load(compiled(NUMBERS + PASS)) as loaded:
        numbers = Map(loaded.maps["numbers"], KEY, VALUE)
        entries = {Key(n): Value(n * n) for n in range(count)}
        numbers.update_all(entries)
        assert dict(numbers.items()) == entries
        numbers.delete_all(Key(n) for n in range(7, count + 100, 2))  # the last 50 are not there
        assert {key.value for key, _ in numbers.items()} == {*range(7), *range(8, count, 2)}


def test_keys_that_are_not_there_do_not_stop_a_deletion(compiled: Callable[[str], Code]) -> None:
    with Object.load(compiled(NUMBERS + PASS)) as loaded:
        numbers = Map(loaded.maps["numbers"], KEY, VALUE)
        numbers.update_all([(Key(1), Value(1)), (Key(4), Value(4))])
        numbers.delete_all([Key(0), Key(1), Key(2), Key(3), Key(4), Key(5)])
        assert numbers.items() == []
        assert numbers.delete(Key(1)) is False


def test_a_full_map_is_an_error_that_names_it(compiled: Callable[[str], Code]) -> None:
    with Object.load(compiled(NUMBERS.replace("40000", "4") + PASS)) as loaded:
        numbers = Map(loaded.maps["numbers"], KEY, VALUE, "numbers")
        with pytest.raises(BpfError, match="MAP_UPDATE_BATCH of map numbers, 9 entries: E2BIG"):
            numbers.update_all([(Key(n), Value(n)) for n in range(9)])


def test_a_map_of_every_processor_has_a_value_of_each(compiled: Callable[[str], Code]) -> None:
    source = "MAP(numbers, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, __u64, 1, 0);\n" + PASS
    with Object.load(compiled(source)) as loaded:
        assert Map(loaded.maps["numbers"], KEY, VALUE).lookup_cpus(Key(0)) == [Value(0)] * possible_cpus()


# links and pins


def refused(cgroup: Path) -> bool:
    """Whether a process of the cgroup may not connect: EPERM. To a closed port of loopback it is ECONNREFUSED else."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    connect = (
        f"import socket\ntry: socket.create_connection(('127.0.0.1', {port}))\nexcept OSError as e: print(e.errno)"
    )
    words = [
        "/bin/sh",
        "-c",
        f'echo $$ > {cgroup}/cgroup.procs; exec "$0" -c "$1"',
        shutil.which("python3") or "",
        connect,
    ]
    return int(subprocess.check_output(words, timeout=10)) == errno.EPERM


def test_a_link_outlives_its_maker_and_its_program_is_replaced_in_place(
    compiled: Callable[[str], Code], pins: Pins, cgroup: Path
) -> None:
    with Object.load(compiled(CONNECT.replace("ANSWER", "0")), pins) as strict:
        attach_cgroup(pins, "connect4", strict.programs["connect4"], cgroup, At.CONNECT4)
    assert refused(cgroup)
    link = pins.get("connect4")
    assert link is not None
    before = struct.unpack("=II", info(link, 8, "test"))
    with Object.load(compiled(CONNECT.replace("ANSWER", "1")), pins) as kind:
        attach_cgroup(pins, "connect4", kind.programs["connect4"], cgroup, At.CONNECT4)
    assert not refused(cgroup)
    assert struct.unpack("=II", info(link, 8, "test")) == before, "the same link"
    os.close(link)
    detach(pins, "connect4")
    assert pins.names() == []


def test_a_link_follows_to_another_cgroup(compiled: Callable[[str], Code], pins: Pins, cgroup: Path) -> None:
    child = cgroup / "child"
    child.mkdir()
    with Object.load(compiled(CONNECT.replace("ANSWER", "0")), pins) as strict:
        attach_cgroup(pins, "connect4", strict.programs["connect4"], child, At.CONNECT4)
        child.rmdir()  # a machine was cleaned up behind our back: the link is dead, its pin is there
        attach_cgroup(pins, "connect4", strict.programs["connect4"], cgroup, At.CONNECT4)
    link = pins.get("connect4")
    assert link is not None
    assert place(link, At.CONNECT4) == Place(cgroup.stat().st_ino, At.CONNECT4)
    os.close(link)
    assert refused(cgroup)
    detach(pins, "connect4")
    assert not refused(cgroup)
    detach(pins, "connect4")  # again is the same as once


def test_an_own_bpffs_is_mounted_once_and_goes_with_its_instance(tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = Pins.open("test", run)
    assert is_bpffs(first.folder)
    assert Pins.open("test", run) == first
    assert Path("/proc/self/mounts").read_text().count(str(run)) == (1 if first.mount else 0)
    first.release()
    first.release()
    assert not first.folder.exists()
    assert str(run) not in Path("/proc/self/mounts").read_text()


# what this kernel can do


def test_the_probe_answers_for_every_feature_and_leaves_nothing(tmp_path: Path) -> None:
    before = len([*Path("/proc/self/fd").iterdir()])
    found = probe()
    assert found.keys() == FEATURES.keys()
    assert all(answer == OK or answer.split()[0].isupper() for answer in found.values()), found
    assert len([*Path("/proc/self/fd").iterdir()]) == before
    assert missing(found) == []


def test_tcx_is_known_by_its_refusal_of_a_program_that_is_none() -> None:
    assert links.has_tcx() == (probe()["tcx"] == OK)
