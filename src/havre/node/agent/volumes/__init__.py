"""Volumes of pods: what containers find at their mount points.

    volumes = Volumes(root, api, tokens)
    mounted = await volumes.mount(pod)                    # also after a restart, also to bring contents up to date
    mounts = await volumes.container_mounts(pod, container, variables)
    await volumes.unmount(uid)

volumes    which source is which, and the order of things
payloads   configMap, secret, downwardAPI, projected: the files they are; pure
atomic     files that change all at once
places     emptyDir, hostPath and what a claim is bound to: directories
ownership  fsGroup
subpaths   a part of a volume, safe from links

    <root>/<uid>/volumes/<name>                     made for this pod; claims and host paths stay where they are
    <root>/<uid>/ready/<name>                       its owners were set
    <root>/<uid>/subpaths/<volume>/<container>/<n>  bind mounts

Not here: images as volumes, CSI, iSCSI, NFS and all that upstream moved out of its tree; block devices.
"""

from __future__ import annotations

from havre.node.agent.volumes.places import Mount
from havre.node.agent.volumes.volumes import ContainerMount, Propagation, Tokens, Volumes

__all__ = ["ContainerMount", "Mount", "Propagation", "Tokens", "Volumes"]
