"""The admission plugs of the API server, named as upstream names them; `chain` puts them in order.

Each plug is a small class with `admit` (may change the object) or `validate` (looks only) and refuses by raising the
ApiError, with the text, that kube-apiserver would answer. They read other objects through a `Lister`.

Source: k8s.io/kubernetes plugin/pkg/admission and k8s.io/apiserver pkg/admission/plugin; the order is that of
pkg/kubeapiserver/options/plugins.go.
"""
