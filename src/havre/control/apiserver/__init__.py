"""The API server: the only part that opens the store; every other part of Havre, and every client, goes through it.

A request passes these rooms, in this order:

server         TLS listener → authn (who) → request (what) → authz (may she) → the handler of the verb → answer
reading        get, list, watch: ready-made bytes from the cache
objects        create, update, patch, delete: the one pipeline of every write
  admission/   mutate and validate; webhooks
  managed_fields, strategies and validation of the kind
cache, shelf   every object once, as bytes; history for watches and older revisions
(store)        durable log
resources      which kinds are served: built-in ones and those of CustomResourceDefinitions
negotiate      JSON, YAML, protobuf, Table, PartialObjectMetadata
discovery, openapi (openapi_custom, gnostic), reviews, subresources, nodes (log, exec, proxy)
local          the same verbs for controllers in this process
"""
