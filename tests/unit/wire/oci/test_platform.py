from __future__ import annotations

import pytest

from havre.wire.oci.platform import Platform, accepted, best, this_machine

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")


@pytest.mark.parametrize(
    ("wanted", "candidates", "chosen"),
    [
        (AMD64, ["linux/arm64", "linux/amd64"], 1),
        (AMD64, ["linux/amd64/v1"], 0),
        (AMD64, ["linux/amd64/v3"], None),
        (Platform("linux", "amd64", "v3"), ["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"], 1),
        (AMD64, ["linux/386"], 0),
        (AMD64, ["linux/386", "linux/amd64"], 1),
        (AMD64, ["windows/amd64", "unknown/unknown"], None),
        (AMD64, ["linux/amd64", "linux/amd64"], 0),
        (ARM64, ["linux/arm/v7", "linux/arm64/v8"], 1),
        (ARM64, ["linux/arm/v6", "linux/arm/v7"], 1),
        (ARM64, ["linux/aarch64"], 0),
        (ARM64, ["linux/arm64/v9"], None),
        (Platform("linux", "arm", "v6"), ["linux/arm/v7", "linux/arm/v5"], 1),
        (Platform("linux", "riscv64"), ["linux/amd64", "linux/riscv64"], 1),
    ],
)
def test_the_best_entry_that_runs_here_is_chosen(wanted: Platform, candidates: list[str], chosen: int | None) -> None:
    platforms = [Platform(*text.split("/")) for text in candidates]
    assert best(platforms, wanted) == chosen


def test_an_entry_without_a_platform_is_not_chosen() -> None:
    assert best([None, AMD64], AMD64) == 1
    assert best([None], AMD64) is None


def test_this_machine_runs_itself() -> None:
    assert this_machine().os == "linux"
    assert this_machine() in accepted(this_machine())


def test_a_platform_is_written_as_users_do() -> None:
    assert (str(Platform("linux", "arm", "v7")), str(AMD64)) == ("linux/arm/v7", "linux/amd64")
