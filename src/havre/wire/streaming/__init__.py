"""The server side of `kubectl exec`, `attach` and `port-forward`: many byte streams over one upgraded connection.

negotiate      reads the request: SPDY/3.1 or WebSocket, which subprotocol → an `Upgrade` answer, or StreamingError
remotecommand  `RemoteCommand`: stdin, stdout, stderr, resizes, exit; the same object over every subprotocol
portforward    `PortForward`: pairs of (port, duplex stream) as the client opens them
output         bytes to the client only: a log that a browser follows
spdy           a session on a tunnel: streams, replies, pings, windows     spdy_frames   its wire format, pure
websocket      messages on a tunnel, ping and close, SPDY bytes inside     websocket_frames   its wire format, pure
channels       numbered channels in WebSocket messages, binary or base64
inbox          received bytes on their way to one reader, bounded by back-pressure

One connection has one task that reads it; what it reads goes into inboxes, and when those hold too much it stops
reading, so that the sender is slowed down by TCP. Writers wait until the connection keeps up. Nothing grows with what
a client sends.

    kubectl ≤ 1.29              exec, attach over SPDY v4.channel.k8s.io; port-forward over SPDY portforward.k8s.io
    kubectl ≥ 1.30              exec, attach over WebSocket v5.channel.k8s.io
    kubectl ≥ 1.31              port-forward over WebSocket SPDY/3.1+portforward.k8s.io: SPDY inside its messages
    browsers, client libraries  WebSocket v4.channel.k8s.io, base64.channel.k8s.io and the like

Source: SPDY/3.1 (dev.chromium.org/spdy/spdy-protocol); RFC 6455; k8s.io/apimachinery, pkg/util/httpstream and
remotecommand; k8s.io/kubelet, pkg/cri/streaming.
"""
