"""/proc/self/mountinfo, read."""

from __future__ import annotations

from havre.node.mounts import Mounted, table

TEXT = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
31 27 0:9 /sub/dir /mnt/with\\040space ro,nosuid shared:4 master:2 - ext4 /dev/vda rw,discard
32 27 0:40 / /merged rw - overlay havre:k1 rw,lowerdir+=/a\\134:b,upperdir=/u
33 27 0:41 / /odd rw - tmpfs tmpfs
"""


def test_a_line_gives_its_fields_unescaped() -> None:
    proc, ext4, overlay, odd = table(TEXT)
    assert proc == Mounted("/proc", "/", "proc", "proc", ("rw", "relatime"), ("rw",))
    assert (ext4.point, ext4.root, ext4.options, ext4.shared) == ("/mnt/with space", "/sub/dir", ("ro", "nosuid"), True)
    assert overlay.source == "havre:k1"
    assert overlay.super_options == ("rw", "lowerdir+=/a\\:b", "upperdir=/u")
    assert odd.super_options == ()
