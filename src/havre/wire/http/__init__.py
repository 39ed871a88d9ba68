"""HTTP for the whole of Havre: one server and one client, both on asyncio protocols.

message   what a handler gets and gives: Request → Response | Stream | Upgrade
server    opens a listener, picks the protocol of each connection, shuts down gracefully
service   what all connections of one listener share: handler, limits, running tasks, the tick that flushes streams
framing   the pure half of both protocols
h1        HTTP/1.1 on httptools, chunks its streams      h2   HTTP/2 on the hyper state machine of httpunk
receive   reads into one buffer, without an allocation per read
upload    a body of any size, as it arrives        files   a file as a body, as fast as the client takes it
tunnel    the raw bytes after `101 Switching Protocols`, on either side
client    keep-alive pool, streamed replies, upgrades     errors   how a client call fails
proxy     a client's TLS connections through an HTTP proxy

A connection is a state machine driven by `data_received`: a handler that answers at once is answered inside that call,
with no task and no queue between. Only a handler that awaits costs a task, and a watch costs none while it is open.

Measured choices are in docs/adr/0001-http-stack.md.
"""
