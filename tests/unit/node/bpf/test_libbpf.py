"""What is said when libbpf is missing, and which of its lines go into an error."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from havre.node.bpf import libbpf
from havre.node.bpf.call import BpfError
from havre.node.bpf.probe import OK, missing


@pytest.fixture
def fresh() -> Iterator[None]:
    libbpf.library.cache_clear()
    yield
    libbpf.library.cache_clear()


@pytest.mark.usefixtures("fresh")
def test_a_machine_without_libbpf_is_told_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAVRE_LIBBPF", "libnothing.so.9")
    with pytest.raises(libbpf.LibbpfMissing, match=r"load libnothing\.so\.9: .*install Debian's package libbpf1"):
        libbpf.library()


def test_an_error_shows_the_last_lines_of_the_verifier() -> None:
    said = ["libbpf: prog 'x': BPF program load failed\n", *(f"{n}: (b7) r0 = {n}\n" for n in range(99))]
    lines = libbpf.tail([*said, "R1 invalid mem access 'scalar'\n-- END PROG LOAD LOG --\n"]).splitlines()
    assert len(lines) == 20
    assert lines[-1] == "R1 invalid mem access 'scalar'"


def test_an_error_names_what_was_tried_the_cause_and_what_to_do() -> None:
    error = BpfError(1, "load x.bpf.o", "be root")
    assert str(error) == "load x.bpf.o: EPERM Operation not permitted; be root"
    assert error.errno == 1


def test_what_is_needed_and_not_there_is_named() -> None:
    assert missing({}) == missing({"tcx": OK})
    assert "set_retval" in missing({"set_retval": "EINVAL Invalid argument"})
    assert "tcx" not in missing({}), "there is a way without"
