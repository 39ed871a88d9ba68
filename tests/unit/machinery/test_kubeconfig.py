"""Kubeconfig files: which one, which part of it, and what is said when it cannot work."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.machinery import kubeconfig
from havre.machinery.kubeconfig import Connection, KubeconfigError

FULL = """
apiVersion: v1
kind: Config
current-context: one
clusters:
- name: c1
  cluster: {server: "https://one:6443/", certificate-authority: pki/ca.crt, tls-server-name: api}
- name: c2
  cluster: {server: "https://two:6443", insecure-skip-tls-verify: true}
users:
- name: cert
  user: {client-certificate-data: Y3J0, client-key-data: a2V5, as: bob, as-groups: [dev]}
- name: token
  user: {token: hush, tokenFile: token}
contexts:
- name: one
  context: {cluster: c1, user: cert, namespace: team}
- name: two
  context: {cluster: c2, user: token}
- name: lost
  context: {cluster: c3}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "pki").mkdir()
    (tmp_path / "pki" / "ca.crt").write_bytes(b"authority")
    path = tmp_path / "config"
    path.write_text(FULL)
    return path


def test_the_current_context_is_taken_and_paths_are_relative_to_the_file(file: Path) -> None:
    assert kubeconfig.load(file) == Connection(
        "https://one:6443",
        ca=b"authority",
        certificate=b"crt",
        key=b"key",
        impersonate="bob",
        impersonate_groups=("dev",),
        server_name="api",
        namespace="team",
    )


def test_another_context_can_be_named(file: Path) -> None:
    found = kubeconfig.load(file, context="two")
    assert (found.server, found.insecure, found.token, found.namespace) == (
        "https://two:6443",
        True,
        "hush",
        "default",
    )
    assert found.token_file == file.parent / "token"


def test_secrets_are_not_shown(file: Path) -> None:
    assert "hush" not in repr(kubeconfig.load(file, context="two"))
    assert "b'key'" not in repr(kubeconfig.load(file))


def test_of_several_files_the_first_that_says_something_wins(tmp_path: Path) -> None:
    first, second = tmp_path / "a" / "first", tmp_path / "second"
    first.parent.mkdir()
    first.write_text('{clusters: [{name: c, cluster: {server: "https://first"}}], current-context: ""}')
    second.write_text(
        '{clusters: [{name: c, cluster: {server: "https://second"}}],'
        "contexts: [{name: x, context: {cluster: c}}], current-context: x}"
    )
    env = {"KUBECONFIG": f"{tmp_path / 'missing'}:{first}:{second}"}
    assert kubeconfig.load(env=env).server == "https://first"


def test_the_home_directory_is_the_last_place(file: Path) -> None:
    place = file.parent / ".kube" / "config"
    place.parent.mkdir()
    place.write_text(
        '{clusters: [{name: c, cluster: {server: "https://home"}}],'
        "contexts: [{name: x, context: {cluster: c}}], current-context: x}"
    )
    assert kubeconfig.load(env={"HOME": str(file.parent)}).server == "https://home"


def test_a_pod_finds_its_service_account(tmp_path: Path) -> None:
    for name in ("ca.crt", "token", "namespace"):
        (tmp_path / name).write_text(name)
    env = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    found = kubeconfig.in_cluster(env, tmp_path)
    assert found == Connection(
        "https://[fd00::1]:443", ca=b"ca.crt", token_file=tmp_path / "token", namespace="namespace"
    )


@pytest.mark.parametrize(
    ("context", "text", "said"),
    [
        ("", "{}", "no current-context"),
        ("nobody", FULL, "there is no context 'nobody'; there is lost, one, two"),
        ("lost", FULL, "there is no cluster 'c3'; there is c1, c2"),
        ("", "[]", "it must be a mapping"),
        ("", "clusters: {}\n a", "read the kubeconfig"),
        ("", "clusters: [1]", "an entry of clusters must have a name and a cluster"),
        ("x", "contexts: [{name: x, context: {cluster: [1]}}]", "cluster must be a string"),
        ("x", '{clusters: [{name: c, cluster: {server: "one"}}], contexts: [{name: x, context: {cluster: c}}]}',
         "must look like https://host:port"),
        ("one", FULL.replace("Y3J0", "&"), "read the kubeconfig"),
        ("one", FULL.replace("Y3J0", "x"), "client-certificate-data is not base64"),
        ("one", FULL.replace("ca.crt", "no.crt"), "No such file or directory; check the path"),
        ("two", FULL.replace("token: hush", "exec: {command: aws}"), "credential plugins are not supported"),
        ("two", FULL.replace("token: hush", "auth-provider: {name: gcp}"), "providers are not supported"),
        ("two", FULL.replace("insecure-skip-tls-verify: true", "proxy-url: 'http://p'"), "proxies are not supported"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_said(file: Path, context: str, text: str, said: str) -> None:
    file.write_text(text)
    with pytest.raises(KubeconfigError) as failure:
        kubeconfig.load(file, context=context)
    assert said in str(failure.value)
    assert str(file) in str(failure.value)


def test_without_any_file_the_message_says_where_it_looked() -> None:
    with pytest.raises(KubeconfigError, match="/nowhere: no such file; name one with --kubeconfig"):
        kubeconfig.load(env={"KUBECONFIG": "/nowhere"})


def test_outside_of_a_pod_there_is_no_service_account(tmp_path: Path) -> None:
    with pytest.raises(KubeconfigError, match="KUBERNETES_SERVICE_HOST"):
        kubeconfig.in_cluster({})
    env = {"KUBERNETES_SERVICE_HOST": "h", "KUBERNETES_SERVICE_PORT": "1"}
    with pytest.raises(KubeconfigError, match="automountServiceAccountToken"):
        kubeconfig.in_cluster(env, tmp_path)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["c", "https://x", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["name", "cluster", "user", "context", "server", "token", "client-key", "tokenFile", "as-groups"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from(["clusters", "users", "contexts", "current-context"]), VALUES))
def test_whatever_a_file_holds_only_one_error_comes_out(config: object) -> None:
    text = repr(config).replace("None", "null").replace("True", "true").replace("False", "false").encode()
    try:
        parsed = kubeconfig.parse(text, Path("/dir/config"))
        kubeconfig.connection(parsed, "x")
    except KubeconfigError:
        return


def test_data_wins_over_files(file: Path) -> None:
    data = base64.b64encode(b"other").decode()
    file.write_text(FULL.replace("tls-server-name: api", f"certificate-authority-data: {data}"))
    assert kubeconfig.load(file).ca == b"other"
