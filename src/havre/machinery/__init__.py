"""What everything that works with the Kubernetes API shares, inside Havre's own cluster and outside of it.

    Api → informer (LIST + WATCH, by key) → queue → controller: reconcile → Plan → apply, prune, status → Api

api         the protocol: nine verbs on plain objects
client      its HTTP implementation, for any cluster; kubeconfig says where that is
informer    objects of one kind kept in memory, and who wants to hear of changes
queue       keys that wait: delayed, without duplicates, one worker per key
controller  the loop that every controller runs in
owners      whose an object is
conditions  the status conditions of an object, merged
events      what happened to an object, for people
admission   who may change or refuse a write
"""
