"""Who signed a commit or a tag: OpenPGP and SSH signatures, checked by git, gpg and ssh-keygen with given keys alone.

The keyring is made for one check in the private directory of the source, so no key of this machine counts.

Source: fluxcd/source-controller, docs/spec/v1/gitrepositories.md ("Verification"; behaviour and words);
git-verify-commit(1), gpg(1), GnuPG doc/DETAILS (VALIDSIG), ssh-keygen(1) ("ALLOWED SIGNERS").
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from havre.platform.gitops.git_run import GitError, Runner

Kind = Literal["commit", "tag"]
KEY_BYTES = 1 << 20  # of all keys; a Secret's limit
_PGP, _SSH = "-----BEGIN PGP SIGNATURE-----", "-----BEGIN SSH SIGNATURE-----"
_PRIMARY = re.compile(r"^\[GNUPG:\] VALIDSIG .* [0-9A-F]*([0-9A-F]{16})$", re.MULTILINE)
_FINGERPRINT = re.compile(r'^Good "git" signature .* key (SHA256:\S+)$', re.MULTILINE)
_SSH_KEY = re.compile(r"(?:ssh-|ecdsa-|sk-)[\w@.-]+ [A-Za-z0-9+/=]+")
_GPG_CONFIG: Final = "no-autostart\nno-auto-key-retrieve\ntrust-model always\nbatch\nno-tty\n"


class Unverified(Exception):
    """The signature is missing or not of these keys; the message says which."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Public keys of a Secret: `*.sshpub` are lines of authorized_keys, everything else is armored OpenPGP."""

    pgp: tuple[bytes, ...] = ()
    ssh: tuple[str, ...] = ()

    @classmethod
    def of(cls, data: Mapping[str, bytes]) -> Keys:
        """Raises Unverified."""
        if sum(map(len, data.values())) > KEY_BYTES:
            raise Unverified(f"the public keys have more than {KEY_BYTES} bytes")
        texts = [text.decode(errors="replace") for name, text in data.items() if name.endswith(".sshpub")]
        lines = [line for text in texts for line in text.splitlines()]
        ssh = tuple(found.group() for line in lines if (found := _SSH_KEY.search(line)) and not line.startswith("#"))
        return cls(tuple(text for name, text in data.items() if not name.endswith(".sshpub")), ssh)


async def signer(runner: Runner, repository: Path, kind: Kind, name: str, text: bytes, keys: Keys) -> str:
    """The key that signed: id of the primary OpenPGP key, or SSH fingerprint. Raises Unverified.

    `name` is the object, `text` its content as git stores it.
    """
    body = text.decode(errors="replace")
    if _SSH in body:
        return await _check(await _with_ssh(runner, keys), repository, kind, name, _FINGERPRINT)
    if _PGP in body:
        with tempfile.TemporaryDirectory(prefix="havre-") as home:  # short, gpg puts sockets there
            return await _check(await _with_pgp(runner, keys, Path(home)), repository, kind, name, _PRIMARY)
    raise Unverified("unsupported signature type: empty")


async def _with_ssh(runner: Runner, keys: Keys) -> Runner:
    if not keys.ssh:
        raise Unverified("SSH signature detected but no SSH public keys found in secret (keys with .sshpub suffix)")
    allowed = "".join(f'* namespaces="git" {key}\n' for key in keys.ssh)
    path = runner.home / "allowed_signers"
    await asyncio.to_thread(path.write_text, allowed)
    return runner.with_setting("gpg.ssh.allowedSignersFile", str(path))


async def _with_pgp(runner: Runner, keys: Keys, home: Path) -> Runner:
    if not keys.pgp:
        raise Unverified("PGP signature detected but no PGP public keys found in secret (keys with .asc suffix)")
    await asyncio.to_thread((home / "gpg.conf").write_text, _GPG_CONFIG)
    runner = runner.with_variable("GNUPGHOME", str(home))
    try:
        await runner.program("gpg", "--quiet", "--import", cwd=home, stdin=b"\n".join(keys.pgp))
    except GitError as error:
        raise Unverified(f"unable to read the PGP public keys: {error}") from error
    return runner


async def _check(runner: Runner, repository: Path, kind: Kind, name: str, key: re.Pattern[str]) -> str:
    try:
        said = await runner.program("git", f"verify-{kind}", "--raw", name, cwd=repository)
    except GitError as error:
        raise Unverified(f"unable to verify Git {kind}: {error}") from error
    found = key.search(said[1].decode(errors="replace"))
    if found is None:
        raise Unverified(f"unable to verify Git {kind}: git does not say which key signed it")
    return found.group(1)
