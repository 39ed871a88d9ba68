"""The Common Expression Language as Kubernetes uses it: `x-kubernetes-validations` of custom resources, admission.

`names` (how property names are written in expressions), `functions` (the libraries Kubernetes adds), `expression`
(compile and evaluate, with bounds), `values` (objects as CEL sees them), `rules` (validation of an object),
`admission` (conditions about requests), `admission_types` (their types, when they are written), `authorizer`.

The evaluator is Google's C++ one behind `expression`, its only home; see docs/adr/0006-cel.md for what is bounded.

Source: cel.dev specification; k8s.io/apiserver, pkg/cel; k8s.io/apiextensions-apiserver, pkg/apiserver/schema/cel.
"""
