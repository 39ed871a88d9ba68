from __future__ import annotations

from pathlib import Path

import pytest

from havre.node.runtime.errors import Failed
from havre.node.runtime.files import LIMIT, read_json, write, write_json
from havre.node.runtime.processes import Process
from havre.node.runtime.records import FILE, ContainerRecord, ContainerState, SandboxRecord
from havre.node.runtime.users import User
from havre.wire.grpc.messages import messages

cri = messages("runtime.v1")


def container() -> ContainerRecord:
    config = cri.ContainerConfig(metadata=cri.ContainerMetadata(name="m"), annotations={"a": "é"})
    return ContainerRecord(
        id="c1", sandbox="s1", config=config, image="sha256:1", image_reference="r@sha256:2", chain="sha256:3",
        cgroup="/havre/c1", user=User(1, 2, (2, 3), "n", "/h"), stop_signal=15, own_pids=True,
        state=ContainerState.EXITED, init=Process(5, 6), monitor=Process(7, 8), exit_code=3, reason="Error",
        finished_at=1795480485309279413,
    )  # fmt: skip


def test_a_container_is_the_same_after_a_restart(tmp_path: Path) -> None:
    record = container()
    record.save(tmp_path)
    assert ContainerRecord.load(tmp_path) == record


def test_a_sandbox_is_the_same_after_a_restart(tmp_path: Path) -> None:
    config = cri.PodSandboxConfig(hostname="h")
    record = SandboxRecord("s1", config, "runc", "h", 5, True, "10.0.0.1", Process(1, 2), "/havre/p")
    record.save(tmp_path)
    assert SandboxRecord.load(tmp_path) == record


def test_without_a_record_it_is_half_made(tmp_path: Path) -> None:
    assert ContainerRecord.load(tmp_path) is None
    assert SandboxRecord.load(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"config": "!"}', '{"id": 1, "unknown": 2}'])
def test_a_broken_record_is_an_error_that_names_the_file(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    for kind in (ContainerRecord, SandboxRecord):
        with pytest.raises(Failed, match=r"state\.json"):
            kind.load(tmp_path)


def test_a_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    write(tmp_path / "f", b"old", mode=0o640)
    write_json(tmp_path / "f", {"new": 1}, durable=False)
    assert (tmp_path / "f").read_bytes() == b'{"new":1}'
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_file_without_end_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b" " * (LIMIT + 1))
    with pytest.raises(Failed, match="larger than"):
        read_json(tmp_path / "f")
