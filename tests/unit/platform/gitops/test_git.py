from __future__ import annotations

from pathlib import Path

import pytest

from havre.platform.gitops.git import Revision, _checked_name, _checked_path, _relative, _upstream, _versions
from havre.platform.gitops.git_run import Auth, AuthError, GitError, Runner, bare, said

HASH = "0123456789abcdef0123456789abcdef01234567"


def test_a_revision_is_written_as_upstream_writes_it() -> None:
    assert Revision(HASH, "refs/heads/feature/x").short() == f"feature/x@sha1:{HASH}"
    assert Revision(HASH, "refs/tags/v1").short() == f"v1@sha1:{HASH}"
    assert Revision(HASH, "refs/pull/1/head").full() == f"refs/pull/1/head@sha1:{HASH}"
    assert Revision(HASH).short() == Revision(HASH).full() == f"sha1:{HASH}"


@pytest.mark.parametrize(
    "name", ["refs/heads/a b", "refs/../x", "-x", "refs/heads/x~1", "a:b", "x@{1}", "a//b", "/a", ""]
)
def test_a_name_that_git_would_read_otherwise_is_refused(name: str) -> None:
    with pytest.raises(GitError):
        _checked_name(name)


def test_the_dereferenced_tag_is_a_name() -> None:
    assert _checked_name("refs/tags/v1^{}") == "refs/tags/v1^{}"


@pytest.mark.parametrize("raw", [b"../x", b"a/../b", b"/x", b"a//b", b".git/config", b"a/.GIT/x", b"caf\xe9", b""])
def test_a_path_of_a_tree_that_leads_elsewhere_is_refused(raw: bytes) -> None:
    with pytest.raises(GitError):
        _checked_path(raw)


def test_the_url_of_a_submodule_may_be_relative() -> None:
    assert _relative("https://git.example/team/app", "../lib.git") == "https://git.example/team/lib.git"
    assert _relative("ssh://git@git.example:22/team/app.git", "../../x/y") == "ssh://git@git.example:22/x/y"
    assert _relative("https://git.example/a", "https://other.example/b") == "https://other.example/b"


def test_only_whole_versions_among_the_tags_count() -> None:
    tags = ["refs/tags/v1.0.0", "refs/tags/v1.0.0^{}", "refs/tags/latest", "refs/tags/1.2"]
    assert [str(version) for version in _versions(tags)] == ["v1.0.0"]


def test_the_words_of_git_become_those_of_flux() -> None:
    assert _upstream("couldn't find remote ref refs/heads/x") == 'couldn\'t find remote ref "refs/heads/x"'
    refused = "could not read Username for 'https://git.example': terminal prompts disabled"
    assert _upstream(refused).startswith("authentication required: ")
    assert said("warning: x\nfatal: one\nremote: two\n\nfatal: one\n") == "one; remote: two"
    assert (
        said("Host key verification failed.\r\nfatal: Could not read")
        == "Host key verification failed.; Could not read"
    )


# credentials


def test_a_secret_says_who_we_are() -> None:
    plain = {"username": b"u", "password": b"p", "ca.crt": b"C", "caFile": b"old"}
    assert Auth.of("https://git.example/x", plain) == Auth("u", "p", ca=b"C")
    assert Auth.of("https://u:p@git.example/x", {}) == Auth("u", "p")
    assert Auth.of("https://u@git.example/x", {"bearerToken": b"t"}).bearer_token == "t"
    keys = {"identity": b"I", "known_hosts": b"K", "password": b"phrase"}
    assert Auth.of("ssh://git.example/x", keys) == Auth("git", "phrase", identity=b"I", known_hosts=b"K")
    assert Auth.of("ssh://me@git.example/x", keys).username == "me"


@pytest.mark.parametrize(
    ("url", "data", "words"),
    [
        ("ssh://git@git.example/x", {}, "invalid 'ssh' auth option: 'identity' is required"),
        ("ssh://git@git.example/x", {"identity": b"I"}, "invalid 'ssh' auth option: 'known_hosts' is required"),
        ("https://git.example/x", {"password": b"p"}, "invalid 'https' auth option: 'password' requires 'username'"),
    ],
)
def test_a_secret_that_does_not_fit_is_told_in_the_words_of_flux(url: str, data: dict[str, bytes], words: str) -> None:
    with pytest.raises(AuthError, match=words):
        Auth.of(url, data)


def test_a_url_is_shown_without_its_secrets() -> None:
    assert bare("https://u:p@git.example:8443/x", Auth("u", "p")) == "https://git.example:8443/x"
    assert bare("ssh://git.example/x", Auth("git")) == "ssh://git@git.example/x"


def test_secrets_are_in_the_environment_for_their_host_and_in_private_files(tmp_path: Path) -> None:
    auth = Auth("u", "s3cret", certificate=b"crt", key=b"key")
    runner = Runner.make(tmp_path, "https://u@git.example/x", auth, frozenset({"https"}))
    settings = {
        runner.environment[f"GIT_CONFIG_KEY_{n}"]: runner.environment[f"GIT_CONFIG_VALUE_{n}"]
        for n in range(int(runner.environment["GIT_CONFIG_COUNT"]))
    }
    assert settings["http.https://git.example/.extraHeader"] == "Authorization: Basic dTpzM2NyZXQ="
    assert Path(settings["http.https://git.example/.sslKey"]).stat().st_mode & 0o777 == 0o600
    assert runner.environment["GIT_ALLOW_PROTOCOL"] == "https"
    assert "s3cret" not in " ".join(runner.command("fetch"))
    assert {"HOME": str(tmp_path), "GIT_TERMINAL_PROMPT": "0"}.items() <= runner.environment.items()


def test_ssh_knows_our_key_and_hosts_only(tmp_path: Path) -> None:
    auth = Auth("git", "phrase", identity=b"I", known_hosts=b"K\n\n")
    runner = Runner.make(tmp_path, "ssh://git@git.example/x", auth, frozenset({"ssh"}))
    command = runner.environment["GIT_SSH_COMMAND"]
    assert "-o StrictHostKeyChecking=yes" in command
    assert f"-o UserKnownHostsFile={tmp_path}/known_hosts" in command
    assert "BatchMode" not in command
    assert (tmp_path / "known_hosts").read_bytes() == b"K\n"
    assert (tmp_path / "identity").stat().st_mode & 0o777 == 0o600
    assert runner.environment["SSH_ASKPASS"] == str(tmp_path / "askpass")
