"""Delivery from Git: the cluster becomes what a repository says, with the API of Flux 2.

    GitRepository ──▶ artifact ──▶ Kustomization ──▶ objects in the cluster
                         └───────▶ HelmChart ──▶ HelmRelease ──▶ release

A source controller fetches something from outside, packs it into an artifact and puts that behind a URL; the others
fetch the artifact and make the cluster follow it. They meet in `status.artifact` alone, so each works with the real
Flux controllers on the other side.

Source: fluxcd.io, Flux 2.9; the kinds are those of its custom resource definitions, unchanged.
"""
