"""The node agent: makes the pods that the API assigns to this machine run, and says what became of them.

    API: pods of this node ─┐                             ┌─→ CRI: sandboxes, containers, images
    CRI: container events  ─┼→ worker of the pod → plan ──┼─→ cgroups, volumes
    clock, probes          ─┘      ↑ what is seen         └─→ API: pod status, events

One serial worker per pod is woken by any of these, looks at everything again, decides in pure functions and takes the
steps. What must outlive the agent is on the containers themselves (`names`) or in the API, so it may be killed at any
moment: containers go on, and the next agent goes on from what it sees.

agent        wiring and start              node         the Node object and its Lease
pods         who works on which pod        worker       one pod: observe, plan, do, report
seen         what is observed of a pod     sync         pure: which steps bring the pod forward
status       pure: the status to report    container_status   pure: of one container
start        image, config, hook, go       termination  graceful end of containers and pods
configs      pure: CRI configurations      security     pure: security contexts
probes       when, and with what result    checks, grpc_health   one check of a container
images       pull policy and back-off      credentials  pure: pull secrets
admit        pure: what this node refuses  back_off     pure: how long a restart waits
resources    pure: amounts for cgroups     cgroups      making and removing them
garbage      dead containers, images       rotation     container logs
messages     last words of containers      notes        events, written behind the work
names        labels and annotations        specs, facts pure: small readers of pods
cri          the runtime, behind a small protocol
inputs       what containers are given: volumes, environment, host_files
endpoint     what the API server asks of a node: logs, streams, stats

Not here, on purpose: static pods; eviction under pressure (the Node's conditions tell it, nothing is evicted).

Source: k8s.io/kubernetes pkg/kubelet.
"""

from __future__ import annotations
