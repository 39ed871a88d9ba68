"""The machine: what needs root and Linux. The agent sits on top and speaks CRI to the runtime; wired by `app`.

    agent     pods of this node: volumes, probes, status; the endpoint behind logs and exec
    runtime   images, sandboxes and containers; CRI and a registry
    network   addresses and links of pods, Services, outgoing NAT, cluster DNS
    bpf       load programs, maps, links; what the kernel can do

Beside them, for more than one of them: `beneath` (paths that cannot leave a directory), `mounts`, `removal`.
"""
