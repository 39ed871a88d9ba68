"""Languages we interpret, pure: text or data in, data out; no I/O, no clock.

schema      a compiled OpenAPI schema node, shared by everything below that needs to know the shape of an object
yaml, json  as Kubernetes reads them
selector    label and field selectors
jsonpath    kubectl's JSONPath
patch       JSON Patch, JSON Merge Patch, strategic merge patch
structural  prune, default and validate an object by its schema
fieldset    managedFields: sets of field paths, and the merge of server-side apply
cel         validation rules of CustomResourceDefinitions
"""
