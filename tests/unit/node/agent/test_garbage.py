"""What is removed: dead containers and sandboxes, unused images, old logs."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.node.agent.fake_runtime import FakeRuntime

from havre.node.agent.cri import Container, Image, RuntimeFault, Sandbox, State
from havre.node.agent.garbage import Disk, dead_containers, dead_sandboxes, unneeded_images
from havre.node.agent.rotation import rotate_all


def dead(id: str, name: str = "a", created: float = 0.0, state: State = State.EXITED) -> Container:
    return Container(id, "box1", "u", name, state, created)


def test_last_dead_instance_of_each_container_stays() -> None:
    found = [
        dead("1"),
        dead("2", created=1),
        dead("3", created=2),
        dead("4", "b"),
        dead("5", created=9, state=State.RUNNING),
    ]
    assert dead_containers(found) == ["2", "1"]


def test_stopped_empty_sandboxes_go_but_the_last() -> None:
    boxes = [Sandbox(f"box{n}", "u", "default", "p", n, False, float(n)) for n in range(4)]
    assert dead_sandboxes(boxes, [dead("1")]) == ["box0", "box2"]
    assert dead_sandboxes([replace(boxes[0], ready=True), boxes[1]], []) == []


@pytest.mark.parametrize(("used", "expected"), [(84, 0), (85, 5), (99, 19)])
def test_disk_is_cleared_from_85_to_80_percent(used: int, expected: int) -> None:
    assert Disk(100, 100 - used).excess() == expected


def test_longest_unused_images_go_first_until_enough_is_free() -> None:
    images = [Image(str(n), size=10) for n in range(5)]
    used_at = {"0": 0.0, "1": 50.0, "2": 20.0, "3": 10.0, "4": 900.0}
    gone = unneeded_images([*images, Image("5", size=10, pinned=True)], {"0"}, used_at, 1000.0, 15)
    assert [image.id for image in gone] == ["3", "2"]
    assert unneeded_images(images, set(), used_at, 1000.0, 0) == []


async def test_large_log_is_put_aside_and_opened_again(tmp_path: Path) -> None:
    runtime, path = await _running(tmp_path)
    path.write_bytes(b"x" * 2000)
    assert await rotate_all(runtime, size=1000, files=3) == 1
    assert runtime.calls[-1] == "reopen app"
    [aside] = path.parent.glob("0.log.*")
    assert aside.read_bytes() == b"x" * 2000
    assert not path.exists()


async def test_old_logs_are_compressed_and_the_oldest_removed(tmp_path: Path) -> None:
    runtime, path = await _running(tmp_path)
    for day in (1, 2, 3):
        (path.parent / f"0.log.2026010{day}-000000").write_text(f"day {day}")
    path.write_bytes(b"x" * 2000)
    await rotate_all(runtime, size=1000, files=4)
    names = sorted(p.name for p in path.parent.iterdir())
    assert names[:2] == ["0.log.20260102-000000.gz", "0.log.20260103-000000.gz"]
    assert len(names) == 3
    with gzip.open(path.parent / names[0], "rt") as file:
        assert file.read() == "day 2"


async def test_log_stays_when_the_runtime_does_not_open_it_again(tmp_path: Path) -> None:
    runtime, path = await _running(tmp_path)
    path.write_bytes(b"x" * 2000)
    runtime.faults["reopen"] = RuntimeFault("UNKNOWN", "no")
    assert await rotate_all(runtime, size=1000) == 0
    assert path.read_bytes() == b"x" * 2000


async def test_small_log_stays(tmp_path: Path) -> None:
    runtime, path = await _running(tmp_path)
    path.write_bytes(b"x")
    assert await rotate_all(runtime, size=1000) == 0


async def _running(tmp_path: Path) -> tuple[FakeRuntime, Path]:
    runtime = FakeRuntime()
    config = {
        "metadata": {"name": "app", "attempt": 0},
        "image": {"image": "i", "user_specified_image": "i"},
        "labels": {"io.kubernetes.pod.uid": "u"},
        "annotations": {},
        "mounts": [],
        "log_path": "app/0.log",
    }
    (tmp_path / "app").mkdir()
    id = await runtime.create_container("box", config, {"log_directory": str(tmp_path)})
    await runtime.start_container(id)
    return runtime, tmp_path / "app/0.log"
