"""Havre's API server beside kube-apiserver + etcd: the same load, the same machine, one after the other, ratios at
the end.

    python benchmarks/api_server.py [--rounds 3] [--seconds 3] [--figures get,list,create,update,apply,watch]

The load generator is kubebench (in $PEERS, beside etcd and kube-apiserver). Figures are per CPU-second of all
processes of the server, since server and client share the cores; a ratio above 1 means that Havre does more with the
same CPU. Both sides wait for the disk before they acknowledge a write. Start, memory and restart are measured on an
empty cluster.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tools.referee import free_ports, program, referee

from havre.control.apiserver import pki
from havre.wire.tls import Pair

Figures = dict[tuple[str, str, int], list[float]]


@contextmanager
def ours(directory: Path) -> Iterator[tuple[Path, dict[str, int]]]:
    command = [sys.executable, "-m", "havre", "run", "control", "--data-dir", str(directory), "--api-port"]
    process = subprocess.Popen([*command, str(free_ports(1)[0])], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"Havre did not start: exit {process.wait()}")
    try:
        yield directory / "control" / "admin.kubeconfig", {"havre": process.pid}
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def theirs(directory: Path) -> Iterator[tuple[Path, dict[str, int]]]:
    with referee(directory, durable=True) as peer:
        connection = peer.connection
        pair = Pair(connection.certificate or b"", connection.key or b"")
        text = pki.kubeconfig(connection.server, connection.ca or b"", pair)
        path = directory / "kubeconfig"
        path.write_text(text)
        yield path, peer.pids


def bench(kubeconfig: Path, pids: dict[str, int], seconds: float, figure: str) -> Figures:
    procs = ",".join(f"{name}={pid}" for name, pid in pids.items())
    command = [str(program("kubebench")), "-kubeconfig", str(kubeconfig), "-procs", procs, "-seconds", str(seconds)]
    out = subprocess.run([*command, figure], capture_output=True, text=True, check=True).stdout
    found: Figures = defaultdict(list)
    for line in out.splitlines():
        row = json.loads(line)
        if "req_per_cpu_s" in row:
            found[row["figure"], row.get("proto", ""), row.get("clients", 0)].append(row["req_per_cpu_s"])
    return found


def memory(pids: dict[str, int]) -> float:
    """MiB of PSS, all processes together."""
    total = 0
    for pid in pids.values():
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        total += int(next(line.split()[1] for line in rollup.splitlines() if line.startswith("Pss:")))
    return total / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--figures", default="get,list,create,update,apply,watch")
    chosen = parser.parse_args()
    sides = {"havre": ours, "kube": theirs}
    results: dict[str, Figures] = {side: defaultdict(list) for side in sides}
    for turn in range(chosen.rounds):
        for side, start in sides.items():
            with tempfile.TemporaryDirectory() as state:
                began = time.perf_counter()
                with start(Path(state)) as (kubeconfig, pids):
                    results[side]["ready-cold (s)", "", 0].append(time.perf_counter() - began)
                    time.sleep(3)  # what a start leaves behind settles
                    results[side]["idle PSS (MiB)", "", 0].append(memory(pids))
                    for figure in chosen.figures.split(","):
                        for key, values in bench(kubeconfig, pids, chosen.seconds, figure).items():
                            results[side][key] += values
            print(f"round {turn + 1} of {chosen.rounds}: {side}", file=sys.stderr)
    report(results)


def report(results: dict[str, Figures]) -> None:
    print(f"cores {os.cpu_count()}, kernel {os.uname().release}, load {os.getloadavg()[0]:.1f}; medians\n")
    print("| figure | protocol | clients | Havre | kube-apiserver + etcd | ratio |\n|---|---|--:|--:|--:|--:|")
    for key in results["havre"]:
        mine, peer = (results[side].get(key, []) for side in ("havre", "kube"))
        if not mine or not peer:
            continue
        one, two = statistics.median(mine), statistics.median(peer)
        ratio = two / one if key[0].endswith(")") else one / two  # of seconds and MiB, less is better
        print(f"| {key[0]} | {key[1]} | {key[2] or ''} | {shown(one)} | {shown(two)} | {ratio:.1f} |")


def shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
