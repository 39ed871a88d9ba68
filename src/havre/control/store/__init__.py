"""A log of revisions in one SQLite file: what etcd is to Kubernetes, reduced to what one machine needs.

Every write appends one row and gets the next revision; nothing is ever updated in place. A row names the revision that
it supersedes, so the live state is "rows that no later row supersedes", found by one scan at start. Keys are strings
`group/resource/namespace/name`, values are bytes that the store never looks inside.

    append (event loop) → queue → committer thread: one transaction per batch, fsync → publish (event loop) → futures
    after, live: a reader connection, any thread            checkpoint thread: copies the write-ahead log back

log.py         Row and Store, the public face
committer.py   the only writer: group commit and compaction
checkpoint.py  keeps the write-ahead log short without delaying writers
file.py        open, lock, tables, and the statements of readers
errors.py      what can go wrong, and what to do

Source of the idea: etcd mvcc (revisions, compaction) and k3s-io/kine (a log in SQL); docs/adr/0002-store.md has the
reasons and the measurements.
"""
