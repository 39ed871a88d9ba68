from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from havre.node.runtime.cgroups import Cgroups
from havre.node.runtime.stats import Pressure, Rates, Reading, pressure, read


def write(directory: Path, **files: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name.replace("__", ".")).write_text(text)


def test_a_unified_cgroup_is_read(tmp_path: Path) -> None:
    write(
        tmp_path / "c",
        cpu__stat="usage_usec 5\nuser_usec 3\n",
        memory__current="1000\n",
        memory__stat="anon 300\ninactive_file 400\npgfault 7\npgmajfault 1\n",
        memory__max="max\n",
        memory__swap__current="9\n",
        pids__current="3\n",
        cpu__pressure="some avg10=1.50 avg60=0.00 avg300=0.25 total=42\n",
    )
    found = read(Cgroups(tmp_path, {}), "/c")
    assert found is not None
    assert (found.cpu, found.memory, found.working_set, found.rss) == (5000, 1000, 600, 300)
    assert (found.limit, found.swap, found.processes, found.page_faults, found.major_page_faults) == (0, 9, 3, 7, 1)
    assert found.pressure["cpu"] == {"some": Pressure(1.5, 0.0, 0.25, 42)}


def test_cgroups_of_v1_are_read(tmp_path: Path) -> None:
    write(
        tmp_path / "memory" / "c",
        memory__usage_in_bytes="1000",
        memory__limit_in_bytes="9223372036854771712",
        memory__memsw__usage_in_bytes="1100",
        memory__stat="total_inactive_file 400\ntotal_rss 300\ntotal_pgfault 7\ntotal_pgmajfault 1\n",
    )
    write(tmp_path / "cpuacct" / "c", cpuacct__usage="12345")
    write(tmp_path / "pids" / "c", pids__current="3")
    trees = {name: tmp_path / name for name in ("memory", "cpuacct", "pids")}
    found = read(Cgroups(None, trees), "/c")
    assert found is not None
    assert (found.cpu, found.working_set, found.rss, found.limit, found.swap) == (12345, 600, 300, 0, 100)
    assert found.processes == 3


def test_a_cgroup_that_is_gone_has_no_reading(tmp_path: Path) -> None:
    assert read(Cgroups(tmp_path, {}), "/gone") is None


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=100))
def test_no_text_breaks_pressure(text: str) -> None:
    pressure(text)


def reading(at: int, cpu: int) -> Reading:
    return Reading(at, cpu, 0, 0, 0, 0, 0, 0, 0, 0, {})


def test_a_rate_needs_two_readings_that_are_apart() -> None:
    rates = Rates()
    assert rates.nano_cores("c", reading(10**9, 0)) == 0
    assert rates.nano_cores("c", reading(3 * 10**9, 10**9)) == 500_000_000
    assert rates.nano_cores("c", reading(3 * 10**9 + 1, 2 * 10**9)) == 500_000_000
    rates.forget("c")
    assert rates.nano_cores("c", reading(5 * 10**9, 3 * 10**9)) == 0
