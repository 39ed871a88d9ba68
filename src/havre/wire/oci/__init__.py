"""OCI images and registries, as bytes and messages: nothing here touches the disk.

reference     names of images: `nginx` → docker.io/library/nginx:latest
digest        `sha256:…`: parse, compute, compare
media_types   the words that say what a blob is, of Docker and of OCI
documents     descriptors, manifests, indexes and configurations, parsed strictly within limits
platform      which entry of an index runs on this machine
challenge     what `WWW-Authenticate` of a registry asks for
auth          credentials, and the tokens that they buy
registry      the client: resolve, manifests, blobs, tags, over mirrors, with resume and retries
errors        how all of this fails

Sources: opencontainers/image-spec and distribution-spec v1.1, distribution/reference, Docker image manifest v2.2.
"""
