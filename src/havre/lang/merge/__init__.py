"""Structured merge: objects with a schema, compared and combined field by field, with an owner for each field.

    shape      a Schema compiled to what merging asks of it: scalar, list or map; atomic or not; its keys
    elements   the path element of each item of a list that is a set or a map
    validate   does a value fit its shape; the words of each problem
    fields     the FieldSet that a value spells out
    compare    the FieldSets that changed and vanished between two values
    combine    an applied value merged into a live one; fields taken out of a value
    ownership  the rules of server-side apply over several owners: conflict, force, prune

Everything is pure. Values are JSON as dicts and lists; results share what did not change with their inputs, so neither
may be changed in place afterwards.

Source: sigs.k8s.io/structured-merge-diff v6, typed/ and merge/.
"""
