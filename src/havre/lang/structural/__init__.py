"""What a schema does to an object: drop unknown fields, fill in defaults, check types, find every problem.

Each function takes a compiled `Schema` and returns a function of an object, with one closure a node: the schema is
read once, an object is walked once, and a subtree where nothing can happen is not entered. A walk builds no path
until it has something to say, then the path grows on the way up.

| module | for | question |
|---|---|---|
| `prune` | custom and built-in kinds | which fields does the schema not know? |
| `types` | built-in kinds | would Go decode this, and to what? |
| `defaults` | custom kinds | what is missing? |
| `validate` | custom kinds | which values are not allowed? |
| `listtypes` | custom kinds | which list elements are there twice? |
| `embedded` | custom kinds | are the objects inside objects well formed? |
| `formats` | custom kinds | is this text a date, a uuid, …? |
| `shape` | CustomResourceDefinitions | is the schema structural? |

Source: k8s.io/apiextensions-apiserver, pkg/apiserver/schema.
"""
