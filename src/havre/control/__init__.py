"""The truth of the cluster; exists only where Havre itself is the cluster.

    client → apiserver → store          store → watch cache → informers → workloads, scheduler → apiserver

store/      a revisioned log of bytes in one SQLite file; nothing but the API server opens it
apiserver/  HTTP verbs over the watch cache, admission, authentication, discovery
workloads/  the controllers that Kubernetes calls kube-controller-manager; they speak the API like anyone else
run         all of them as one part
"""
