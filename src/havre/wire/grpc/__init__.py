"""gRPC over Unix sockets: the messages of CRI and containerd, a server and a client, all in the loop of the process.

messages   `messages("runtime.v1").VersionRequest(version="v1")`: classes from packaged descriptors, made when asked for
server     `await serve(path, [Service("runtime.v1.RuntimeService", {"Version": version})])`
channel    `await Channel(path).unary("runtime.v1.RuntimeService", "Version", request, timeout=10)`
errors     `GrpcError(Status.NOT_FOUND, "…")`, raised by handlers and by calls alike

Messages are typed `Any`: their fields are those of the `.proto` files, which `make generate` packed into `data/`.

A `google.protobuf.Any` is filled by hand, `Any(type_url=…, value=…)`: containerd's type URLs have no host in front
(`containerd.events.TaskExit`), so that `Pack` would write one that no client finds, and the value of
`types.containerd.io/opencontainers/runtime-spec/1/Spec` is JSON, not protobuf.

Source: grpc.io, "gRPC over HTTP2"; k8s.io/cri-api; github.com/containerd/containerd/api.
"""

from __future__ import annotations
