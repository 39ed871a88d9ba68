"""Protocols that Havre speaks on the wire; no domain, only bytes, frames and messages.

http/   server and client, HTTP/1.1 and HTTP/2, streams and raw upgrades
tls     certificates, keys and contexts

A protocol here knows nothing of Kubernetes: whoever speaks it passes a handler in, or calls a client. This is also the
one home of the libraries behind each protocol, so that replacing one touches one folder.
"""
