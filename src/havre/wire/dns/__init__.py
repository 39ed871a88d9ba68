"""The Domain Name System on the wire.

    names      names as bytes in wire form: the form that is compared, stored and sent
    message    whole messages: parse and encode, with compression; questions, records, EDNS(0)
    answer     a prepared answer, put behind a client's own question; truncation, ages of records

A name is `bytes`, each label after its length, ended by a zero byte: b"\\x07cluster\\x05local\\x00". Lengths are below
64 and upper-case letters above, so `bytes.lower` folds a name to the form in which names are equal.

Every reader is bounded: a name has 255 bytes and at most 32 pointers, each of which leads backwards; a message has 64
KiB and at most 1,000 records. What breaks a rule raises `Malformed`, and nothing else.

Source: RFC 1034, 1035, 2181, 2308, 2782, 6891.
"""
