"""Entries of a layer made into a directory that overlayfs can use as one of its lower layers.

The archive may have been written to break out. So every path is walked by the kernel with the layer as its root
(`node.beneath`), the last component is never followed, and what is written goes through a descriptor of a file that did
not exist a moment before. Directories get their owners, modes and times at the end, when nothing is put into them.

Whiteouts. `.wh.name` becomes the 0:0 character device `name`, `.wh..wh..opq` the attribute `trusted.overlay.opaque`.
Both speak of the layers below only: what the same layer has under that name stays, in either order. An archive that
brings such a device or such an attribute itself is refused, or loses it: only whiteouts hide.

An entry for the root itself is ignored, as in containerd: a root is 0755 and root's, whatever directory the layer was
made from. An archive may leave out parents; their paths are `implicit`, so that whoever stacks the layers can give them
what the directory below has.

Source: OCI image-spec layer.md; containerd pkg/archive/tar.go and its TestBreakouts; kernel overlayfs.rst.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from havre.node.beneath import IN_ROOT, NO_MAGICLINKS, NO_SYMLINKS, openat2
from havre.node.removal import remove_tree
from havre.node.runtime.tar import Entry, Kind, Source

WHITEOUT: Final = b".wh."
OPAQUE: Final = b".wh..wh..opq"
META: Final = b".wh..wh."  # other notes of AUFS
OPAQUE_ATTRIBUTE: Final = b"trusted.overlay.opaque"
DEPTH: Final = 256  # directories within directories: deeper ones are seen in attacks only
LINKS: Final = 40  # as many links as the kernel follows in one path
OPEN: Final = 64  # directories kept open: entries come directory by directory

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PLACE: Final = os.O_PATH | os.O_NOFOLLOW
_OVERLAY_NAMES: Final = (b"trusted.overlay.", b"user.overlay.")
_UNSUPPORTED: Final = (errno.ENOTSUP, errno.ENODATA)


class LayerError(ValueError):
    """An entry asks for what no layer may have."""


class FileInTheWay(LayerError):
    """A parent is a file."""


@dataclass(frozen=True, slots=True)
class _Directory:
    """How a directory shall look in the end. `inode` tells whether it is still the same."""

    inode: int
    entry: Entry


def clean(name: bytes) -> bytes:
    """The name as a path under the root, without `.`, `..`, doubled or outer slashes; b"" is the root."""
    if b"/." not in name and b"//" not in name and not name.startswith((b"/", b".")):
        return name.rstrip(b"/")
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


class Extractor:
    """Makes entries under the directory `root`. Raises LayerError for a bad layer, OSError for a bad disk."""

    def __init__(self, root: Path) -> None:
        self._path = root.resolve()
        self._root = os.open(root, _DIRECTORY | os.O_CLOEXEC)
        self._open: dict[bytes, int] = {}
        self._stale = False
        self._directories: dict[bytes, _Directory] = {}
        self.implicit: dict[bytes, None] = {}  # paths of directories that the archive does not have, in order
        self.opaque = False  # the root: nothing of the layers below is seen
        self.files = 0

    def close(self) -> None:
        self._forget()
        os.close(self._root)

    def add(self, entry: Entry, source: Source) -> None:
        """Makes one entry."""
        name = clean(entry.name)
        if not name:
            return
        if name.count(b"/") > DEPTH:
            raise LayerError(f"the layer has more than {DEPTH} directories within each other")
        parent, _, base = name.rpartition(b"/")
        try:
            if base.startswith(WHITEOUT):
                self._hide(parent, base)
            else:
                self._make(parent, base, name, entry, source)
        except OSError as e:
            raise _explained(e, entry) from e

    def _hide(self, parent: bytes, base: bytes) -> None:
        try:
            directory = self._parent(parent)
        except FileInTheWay:  # umoci names what a directory had that is a file now, which hides it all
            return
        if base == OPAQUE:
            if parent:
                os.setxattr(directory, OPAQUE_ATTRIBUTE, b"y")
            else:
                self.opaque = True
            return
        if base.startswith(META):
            return
        hidden = base[len(WHITEOUT) :]
        if hidden in (b"", b".", b".."):
            raise LayerError(f"the whiteout {base!r} in {parent!r} hides no name")
        self._whiteout(directory, hidden)

    def _whiteout(self, directory: int, name: bytes) -> None:
        try:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=directory)
        except FileExistsError:
            if stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                self._make_opaque(directory, name)

    def _make_opaque(self, parent: int, name: bytes) -> None:
        directory = openat2(parent, name, _DIRECTORY | os.O_NOFOLLOW)
        try:
            os.setxattr(directory, OPAQUE_ATTRIBUTE, b"y")
        finally:
            os.close(directory)

    def _make(self, parent: bytes, base: bytes, name: bytes, entry: Entry, source: Source) -> None:
        directory = self._parent(parent)
        if entry.kind is Kind.FILE:
            self._file(directory, base, entry, source)
        elif entry.kind is Kind.DIRECTORY:
            self._directory(directory, base, name, entry)
        elif entry.kind is Kind.LINK:
            self._link(directory, base, entry)
        elif entry.kind is Kind.SYMLINK:
            self._symlink(directory, base, entry)
        else:
            self._device(directory, base, entry)
        self.files += 1

    # kinds

    def _file(self, directory: int, base: bytes, entry: Entry, source: Source) -> None:
        try:
            file = os.open(base, _NEW_FILE, 0o600, dir_fd=directory)
        except FileExistsError:
            self._remove(directory, base)
            file = os.open(base, _NEW_FILE, 0o600, dir_fd=directory)
        try:
            for piece in source.pieces(entry.size):
                written = os.write(file, piece)
                while written < len(piece):
                    written += os.write(file, piece[written:])
            _dress(file, entry)
        finally:
            os.close(file)

    def _directory(self, parent: int, base: bytes, name: bytes, entry: Entry) -> None:
        try:
            os.mkdir(base, 0o700, dir_fd=parent)
        except FileExistsError:
            found = os.stat(base, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISDIR(found.st_mode):
                self._remove(parent, base)
                os.mkdir(base, 0o700, dir_fd=parent)
                if _is_whiteout(found):
                    self._make_opaque(parent, base)
        inode = os.stat(base, dir_fd=parent, follow_symlinks=False).st_ino
        self._directories[name] = _Directory(inode, entry)
        self.implicit.pop(name, None)

    def _link(self, directory: int, base: bytes, entry: Entry) -> None:
        target = clean(entry.target)
        parent, _, name = target.rpartition(b"/")
        if not name:
            raise LayerError(f"{entry.name!r} is a hard link to the root")
        at = openat2(self._root, parent or b".", os.O_PATH | os.O_DIRECTORY)
        try:
            found = os.stat(name, dir_fd=at, follow_symlinks=False)
            if _is_whiteout(found):
                raise LayerError(f"{entry.name!r} is a hard link to a whiteout")
            if self._is(directory, base, found):
                return
            self._clear(directory, base)
            os.link(name, base, src_dir_fd=at, dst_dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError as e:
            raise LayerError(f"{entry.name!r} is a hard link to {entry.target!r}, which the layer does not have") from e
        finally:
            os.close(at)

    def _is(self, directory: int, base: bytes, wanted: os.stat_result) -> bool:
        try:
            found = os.stat(base, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return found.st_ino == wanted.st_ino

    def _symlink(self, directory: int, base: bytes, entry: Entry) -> None:
        self._clear(directory, base)
        os.symlink(entry.target, base, dir_fd=directory)
        os.chown(base, entry.uid, entry.gid, dir_fd=directory, follow_symlinks=False)
        if entry.xattrs:
            _set_attributes(f"/proc/self/fd/{directory}/".encode() + base, entry, follow=False)
        os.utime(base, ns=(entry.mtime, entry.mtime), dir_fd=directory, follow_symlinks=False)

    def _device(self, directory: int, base: bytes, entry: Entry) -> None:
        if entry.kind is Kind.CHAR and entry.device == (0, 0):
            raise LayerError(f"{entry.name!r} is the device 0:0, which would hide files of other layers")
        self._clear(directory, base)
        kinds = {Kind.CHAR: stat.S_IFCHR, Kind.BLOCK: stat.S_IFBLK, Kind.FIFO: stat.S_IFIFO}
        os.mknod(base, 0o600 | kinds[entry.kind], os.makedev(*entry.device), dir_fd=directory)
        place = openat2(directory, base, _PLACE)
        try:
            _dress(f"/proc/self/fd/{place}", entry)  # itself: opening the device would act on the machine
        finally:
            os.close(place)

    # what is in the way

    def _clear(self, directory: int, base: bytes) -> None:
        try:
            self._remove(directory, base)
        except FileNotFoundError:
            return

    def _remove(self, directory: int, base: bytes) -> None:
        """A file, a link, or a directory with everything in it."""
        found = os.stat(base, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            gone = Path(f"/proc/self/fd/{directory}").readlink() / os.fsdecode(base)
            remove_tree(gone)
            self._drop(os.fsencode(gone.relative_to(self._path)))
        else:
            os.unlink(base, dir_fd=directory)
        if not stat.S_ISREG(found.st_mode):
            self._stale = True  # what is open may lie elsewhere now; closed later, as `directory` may be among it

    def _drop(self, gone: bytes) -> None:
        """Forgets what was noted of a directory that is gone, and of all in it."""
        below = gone + b"/"
        self._directories = {n: d for n, d in self._directories.items() if n != gone and not n.startswith(below)}
        self.implicit = {n: None for n in self.implicit if n != gone and not n.startswith(below)}

    # parents

    def _parent(self, path: bytes) -> int:
        """An open descriptor of the directory, which is made if it is missing."""
        if self._stale:
            self._forget()
        if not path:
            return self._root
        known = self._open.get(path)
        if known is not None:
            return known
        try:
            directory = openat2(self._root, path, _DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            directory = openat2(self._root, self._made(path), _DIRECTORY)
        if len(self._open) >= OPEN:
            self._forget()
        self._open[path] = directory
        return directory

    def _forget(self) -> None:
        for directory in self._open.values():
            os.close(directory)
        self._open.clear()
        self._stale = False

    def _made(self, path: bytes) -> bytes:
        """Walks `path` one name at a time, as the kernel does in a root of its own, and makes what is missing; the path
        without links."""
        pending = path.split(b"/")[::-1]
        done: list[bytes] = []
        links = 0
        while pending:
            name = pending.pop()
            if name in (b"", b".", b".."):
                done = done[:-1] if name == b".." else done
                continue
            target = self._step(b"/".join(done), name)
            if target is None:
                done.append(name)
                continue
            links += 1
            if links > LINKS:
                raise LayerError(f"{path!r} leads through more than {LINKS} links")
            done = [] if target.startswith(b"/") else done
            pending.extend(target.split(b"/")[::-1])
        return b"/".join(done) or b"."

    def _step(self, place: bytes, name: bytes) -> bytes | None:
        """Makes the directory `name` in `place`, if need be; what it points to, if it is a link."""
        parent = openat2(self._root, place or b".", os.O_PATH | os.O_DIRECTORY, resolve=_STRAIGHT)
        try:
            os.mkdir(name, 0o755, dir_fd=parent)
            self.implicit[place + b"/" + name if place else name] = None
        except FileExistsError:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISLNK(found.st_mode):
                return os.readlink(name, dir_fd=parent)
            if _is_whiteout(found):
                os.unlink(name, dir_fd=parent)
                os.mkdir(name, 0o755, dir_fd=parent)
                self._make_opaque(parent, name)
                self.implicit[place + b"/" + name if place else name] = None
            elif not stat.S_ISDIR(found.st_mode):
                raise FileInTheWay(f"{name!r} in {place!r} is a file, and a directory to later entries") from None
        finally:
            os.close(parent)
        return None

    # the end

    def finish(self) -> None:
        """Directories as their entries say, parents that nobody described as root's."""
        self._forget()
        for path in self.implicit:
            self._finish(path, Entry(path, Kind.DIRECTORY, 0o755, 0, 0, 0, 0))
        for path, wanted in self._directories.items():
            self._finish(path, wanted.entry, wanted.inode)

    def _finish(self, path: bytes, entry: Entry, inode: int = 0) -> None:
        try:
            directory = openat2(self._root, path, _DIRECTORY | os.O_NOFOLLOW)
        except (FileNotFoundError, NotADirectoryError):
            return  # a later entry took its place
        except OSError as e:
            if e.errno == errno.ELOOP:  # the same, with a link
                return
            raise _explained(e, entry) from e
        try:
            if not inode or os.fstat(directory).st_ino == inode:
                _dress(directory, entry)
        finally:
            os.close(directory)


_STRAIGHT: Final = IN_ROOT | NO_MAGICLINKS | NO_SYMLINKS


def _dress(file: int | str, entry: Entry) -> None:
    """Owner before mode and capabilities, which a change of owner takes away; times last."""
    os.chown(file, entry.uid, entry.gid)
    os.chmod(file, entry.mode)  # noqa: PTH101 - a descriptor
    if entry.xattrs:
        _set_attributes(file, entry, follow=True)
    os.utime(file, ns=(entry.mtime, entry.mtime))


def _set_attributes(file: int | str | bytes, entry: Entry, *, follow: bool) -> None:
    for name, value in entry.xattrs.items():
        if name.startswith(_OVERLAY_NAMES):
            continue
        try:
            os.setxattr(file, name, value, follow_symlinks=follow)
        except OSError as e:
            if e.errno not in _UNSUPPORTED:
                raise


def _is_whiteout(found: os.stat_result) -> bool:
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


# What an archive can provoke; everything else is the machine's: a full disk, a missing permission.
_PROVOKED: Final = frozenset(
    (
        errno.EEXIST,
        errno.EINVAL,
        errno.EISDIR,
        errno.ELOOP,
        errno.EMLINK,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EXDEV,
    )
)


def _explained(error: OSError, entry: Entry) -> Exception:
    if error.errno in _PROVOKED:
        return LayerError(f"{entry.kind.value} {entry.name[:200]!r} cannot be made: {error.strerror}")
    return OSError(error.errno, f"{entry.kind.value} {entry.name[:200]!r}: {error.strerror}")
