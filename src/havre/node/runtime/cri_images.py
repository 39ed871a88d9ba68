"""`runtime.v1.ImageService`: CRI over the images of this machine.

Source: k8s.io/cri-api v0.34, pkg/apis/runtime/v1/api.proto.
"""

from __future__ import annotations

from typing import Any

from havre.lang import json
from havre.node.runtime.containers import Containers
from havre.node.runtime.cri_stats import Stats, filesystem
from havre.node.runtime.errors import Invalid, Precondition
from havre.node.runtime.faults import answering
from havre.node.runtime.host import Host
from havre.node.runtime.images import Auth, Image, Images
from havre.node.runtime.snapshots import ChainId, Snapshots
from havre.node.runtime.users import MAX_ID
from havre.wire.grpc.messages import messages
from havre.wire.grpc.server import Service
from havre.wire.oci.errors import Unauthorized

__all__ = ["ImageService"]

cri = messages("runtime.v1")


class ImageService:
    """The handlers; `service()` is what a gRPC server takes."""

    def __init__(self, host: Host, images: Images, snapshots: Snapshots, containers: Containers, stats: Stats) -> None:
        self._host = host
        self._images = images
        self._snapshots = snapshots
        self._containers = containers
        self._stats = stats

    def service(self) -> Service:
        methods = {
            "ListImages": self.list_images,
            "ImageStatus": self.image_status,
            "PullImage": self.pull_image,
            "RemoveImage": self.remove_image,
            "ImageFsInfo": self.image_fs_info,
        }
        return Service("runtime.v1.ImageService", {name: answering(method) for name, method in methods.items()})

    async def list_images(self, request: Any) -> Any:
        if wanted := request.filter.image.image:
            image = self._images.find(wanted)
            return cri.ListImagesResponse(images=[_image(image)] if image is not None else [])
        return cri.ListImagesResponse(images=[_image(image) for image in self._images.list()])

    async def image_status(self, request: Any) -> Any:
        """No image is an empty answer, not an error."""
        if not request.image.image:
            raise Invalid("image status: no image named")
        image = self._images.find(request.image.image)
        if image is None:
            return cri.ImageStatusResponse()
        return cri.ImageStatusResponse(image=_image(image), info=_info(image) if request.verbose else {})

    async def pull_image(self, request: Any) -> Any:
        if not request.image.image:
            raise Invalid("pull: no image named")
        image = await self._images.pull(request.image.image, _auth(request.auth))
        return cri.PullImageResponse(image_ref=image.id)

    async def remove_image(self, request: Any) -> Any:
        """An image that is not there is fine; one that a container uses is kept, since a restart needs it."""
        if not request.image.image:
            raise Invalid("remove: no image named")
        image = self._images.find(request.image.image)
        if image is None:
            return cri.RemoveImageResponse()
        users = [container.id for container in self._containers if container.record.image == image.id]
        if users and request.image.image in {image.id, *image.digests}:
            raise Precondition(f"remove image {request.image.image}: used by container {users[0]}")
        await self._images.remove(request.image.image)
        await self._images.collect({ChainId(container.record.chain) for container in self._containers})
        return cri.RemoveImageResponse()

    async def image_fs_info(self, request: Any) -> Any:
        """Layers are counted once when they are unpacked, so no tree of an image is walked here."""
        sizes: dict[str, tuple[int, int]] = {}
        for image in self._images.list():
            for layer, chain in zip(image.layers, image.config.chain_ids, strict=True):
                usage = self._snapshots.layer_usage(ChainId(chain))
                sizes[layer.descriptor.digest] = layer.descriptor.size, 1
                sizes[chain] = usage.bytes, usage.inodes
        used, inodes = (sum(pair[i] for pair in sizes.values()) for i in (0, 1))
        place = str(self._host.config.data)
        written = await self._stats.written()
        return cri.ImageFsInfoResponse(
            image_filesystems=[filesystem(place, used, inodes)], container_filesystems=[filesystem(place, *written)]
        )


def _image(image: Image) -> Any:
    found = cri.Image(
        id=image.id,
        repo_tags=image.tags,
        repo_digests=image.digests,
        size=image.size,
        spec=cri.ImageSpec(image=image.id),
        pinned=image.pinned,
    )
    user = image.config.user.partition(":")[0]
    if user.isascii() and user.isdigit() and len(user) < 11 and int(user) <= MAX_ID:
        found.uid.value = int(user)
    else:
        found.username = user  # also a number that is too large: the agent then refuses runAsNonRoot
    return found


def _info(image: Image) -> dict[str, str]:
    config = image.config
    shown = {
        "User": config.user,
        "Env": list(config.env),
        "Entrypoint": list(config.entrypoint),
        "Cmd": list(config.cmd),
        "WorkingDir": config.working_dir,
        "Labels": dict(config.labels),
        "StopSignal": config.stop_signal,
        "Volumes": {path: {} for path in config.volumes},
    }
    facts = {"chainID": image.chain or "", "imageSpec": {"config": shown, "created": config.created}}
    return {"info": json.dumps(facts).decode()}


def _auth(given: Any) -> Auth | None:
    """What the agent found in a pull secret. Raises Invalid."""
    server = given.server_address
    if given.auth and not given.username:
        try:
            return Auth.from_basic(given.auth, server)
        except Unauthorized as error:
            raise Invalid(f"pull: {error}") from None
    if given.username or given.identity_token or given.registry_token:
        return Auth(given.username, given.password, given.identity_token, given.registry_token, server)
    return None
