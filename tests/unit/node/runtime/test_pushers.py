"""Who is at the other end of a connection on this machine."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from havre.node.runtime.pushers import may_push, owner

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
CLIENT, SERVER = ("127.0.0.1", 0x8001), ("127.0.0.1", 5000)


def line(local: str, remote: str, state: str = "01", uid: int = 1000, inode: int = 7) -> str:
    return f"   0: {local} {remote} {state} 00000000:00000000 00:00000000 00000000  {uid}        0 {inode} 1 0 20\n"


def table(tmp_path: Path, *lines: str) -> list[Path]:
    (tmp_path / "tcp").write_text(HEAD + "".join(lines))
    return [tmp_path / "tcp", tmp_path / "absent"]


US, THEM = "0100007F:1388", "0100007F:8001"


@pytest.mark.skipif(sys.byteorder != "little", reason="the text is that of a little-endian machine")
@pytest.mark.parametrize(
    ("lines", "uid"),
    [
        ([line(US, THEM, uid=0), line(THEM, US)], 1000),
        ([line("0000000000000000FFFF00000100007F:8001", "0000000000000000FFFF00000100007F:1388")], 1000),
        ([line(US, THEM, uid=0)], None),  # our own end only: the other is not on this machine
        ([line(THEM, US, "05", uid=0, inode=0)], None),  # closed, and nobody's any more: shown as root's
        ([line(THEM, US, uid=0, inode=0)], None),
        ([line(THEM, "0100007F:1389", uid=0)], None),
        ([], None),
    ],
)
def test_the_owner_is_that_of_the_clients_end(tmp_path: Path, lines: list[str], uid: int | None) -> None:
    assert owner(CLIENT, SERVER, table(tmp_path, *lines)) == uid


def test_a_real_connection_is_ours_until_it_is_closed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
        with accepted:
            ends = client.getsockname(), listener.getsockname()
            assert owner(*ends) == os.geteuid()
            assert may_push(*ends)
            client.close()
            assert owner(*ends) is None
            assert not may_push(*ends)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_somebody_else_may_not_push() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        pid = os.fork()
        if pid == 0:
            os.setresuid(65534, 65534, 65534)
            with socket.create_connection(listener.getsockname()) as held:
                held.recv(1)
            os._exit(0)
        accepted, client = listener.accept()
        with accepted:
            assert owner(client, listener.getsockname()) == 65534
            assert not may_push(client, listener.getsockname())
        os.waitpid(pid, 0)
