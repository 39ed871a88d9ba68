from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from havre.node.runtime.hosts import Hosts, InvalidHosts, parse_hosts
from havre.wire import tls

SERVER = "https://registry.example"


def write(root: Path, host: str, text: str) -> None:
    (root / host).mkdir()
    (root / host / "hosts.toml").write_text(text)


@pytest.mark.parametrize(
    ("registry", "url"),
    [
        ("docker.io", "https://registry-1.docker.io/v2"),
        ("registry.k8s.io", "https://registry.k8s.io/v2"),
        ("127.0.0.1:5000", "http://127.0.0.1:5000/v2"),
        ("localhost:5000", "http://localhost:5000/v2"),
        ("[::1]:5000", "http://[::1]:5000/v2"),
        ("10.0.0.5:5000", "http://10.0.0.5:5000/v2"),
        ("10.0.0.6:5000", "https://10.0.0.6:5000/v2"),
    ],
)
def test_without_a_file_the_registry_itself_is_asked(registry: str, url: str, tmp_path: Path) -> None:
    for hosts in (Hosts(None, ["10.0.0.5:5000"]), Hosts(tmp_path, ["10.0.0.5:5000"])):
        found = hosts.endpoints(registry)
        assert [endpoint.url for endpoint in found] == [url]
        assert found[0].trusted


def test_mirrors_come_first_and_get_no_credentials(tmp_path: Path) -> None:
    write(
        tmp_path,
        "docker.io",
        """
        server = "https://registry-1.docker.io"
        [host."https://mirror.example:5000"]
          capabilities = ["pull", "resolve"]
          [host."https://mirror.example:5000".header]
            X-Key = ["a", "b"]
        [host."http://other.example/prefix"]
          override_path = true
          capabilities = "pull"
        """,
    )
    first, second, own = Hosts(tmp_path).endpoints("docker.io")
    assert [e.url for e in (first, second, own)] == [
        "https://mirror.example:5000/v2",
        "http://other.example/prefix",
        "https://registry-1.docker.io/v2",
    ]
    assert [e.trusted for e in (first, second, own)] == [False, False, True]
    assert first.headers == {"x-key": "a, b"}
    assert second.capabilities == frozenset({"pull"})


def test_the_default_stands_in_for_every_registry(tmp_path: Path) -> None:
    write(tmp_path, "_default", '[host."http://127.0.0.1:5000"]')
    write(tmp_path, "10.0.0.5_5000_", 'server = "http://10.0.0.5:5000"')
    hosts = Hosts(tmp_path)
    assert [e.url for e in hosts.endpoints("registry.k8s.io")] == [
        "http://127.0.0.1:5000/v2",
        "https://registry.k8s.io/v2",
    ]
    assert [e.url for e in hosts.endpoints("10.0.0.5:5000")] == ["http://10.0.0.5:5000/v2"]


def test_certificates_are_read_from_beside_the_file(tmp_path: Path) -> None:
    authority = tls.new_authority("mirror")
    write(
        tmp_path,
        "x.example",
        'ca = "ca.crt"\nclient = [["client.crt", "client.key"]]\n[host."https://m.example"]\nskip_verify = true',
    )
    tls.save(tmp_path / "x.example", "client", tls.issue(authority, tls.Subject("me"), client=True))
    (tmp_path / "x.example/ca.crt").write_bytes(authority.certificate)
    mirror, own = Hosts(tmp_path).endpoints("x.example")
    assert mirror.ssl is not None
    assert own.ssl is not None
    assert (mirror.ssl.verify_mode, own.ssl.verify_mode) == (ssl.CERT_NONE, ssl.CERT_REQUIRED)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("server = ", "not TOML"),
        ('server = "ftp://x"', "not the URL of a host"),
        ('server = "https://user:pw@x.example"', "not the URL of a host"),
        ("server = 5", "not the URL of a host"),
        ("host = 5", "must be a table"),
        ('[host]\n"https://x" = 5', "must be a table"),
        ('capabilities = ["fly"]', "'fly' is not known"),
        ("capabilities = 5", "must be a string or a list"),
        ('skip_verify = "yes"', "must be true or false"),
        ('ca = "none.crt"', "cannot load its certificates"),
        ('client = [["a"]]', "client must be"),
        ("header = 5", "header must be a table"),
        ('[header]\n"a b" = "c"', "cannot be sent"),
        ('[header]\na = "b\\r\\nc: d"', "cannot be sent"),
        ("\n".join(f'[host."https://h{n}"]' for n in range(65)), "at most 64"),
        ("#" * 300_000, "longer than"),
    ],
)
def test_a_file_that_cannot_be_used_says_where_and_why(text: str, why: str) -> None:
    with pytest.raises(InvalidHosts) as caught:
        parse_hosts(text.encode(), "x.example", Path("/nowhere/x.example"), SERVER)
    assert str(caught.value).startswith("x.example/hosts.toml: ")
    assert why in str(caught.value)


def test_a_registry_cannot_name_a_directory_outside(tmp_path: Path) -> None:
    (tmp_path / "certs.d").mkdir()
    (tmp_path / "hosts.toml").write_text('server = "http://evil.example"')
    assert Hosts(tmp_path / "certs.d").endpoints("..")[0].url == "https://../v2"


_KEYS = st.sampled_from(["server", "capabilities", "ca", "client", "skip_verify", "override_path", "header", "host.x"])
_VALUES = st.sampled_from(
    ['"a"', "5", "true", "[]", '["pull"]', "{}", '{a = "b"}', "[[1]]", '"https://x.example"', "1979-05-27"]
)


@given(
    st.lists(st.tuples(_KEYS, _VALUES), max_size=6).map(lambda rows: "\n".join(f"{k} = {v}" for k, v in rows))
    | st.text(max_size=60)
)
def test_any_text_is_endpoints_or_refused(text: str) -> None:
    try:
        found = parse_hosts(text.encode(errors="replace"), "x.example", Path("/nowhere/x.example"), SERVER)
    except InvalidHosts:
        return
    assert found[-1].url.startswith("http")
