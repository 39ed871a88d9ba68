"""The container runtime of one machine: images, sandboxes and containers, served as CRI v1 and to `ctr version`.

runtime = await serve(Config(data=..., run=..., instance="havre"), network)
...
await runtime.close()      # containers run on
await runtime.destroy()    # nothing of this instance is left on the machine

images      content → unpacked snapshots → `Images`
spec        CRI configuration + image → OCI runtime specification; pure
sandboxes   pinned namespaces, no process of their own unless a pod shares its PID namespace
containers  bundles run by conmon and an OCI runtime (crun, else runc); found again after any crash
cri         the gRPC services over all of it; streaming serves the URLs of Exec, Attach and PortForward
"""
