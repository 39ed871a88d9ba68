"""Links of pages that are seen through the proxy."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havre.control.apiserver.links import rewritten, through

PREFIX = "/api/v1/namespaces/shop/pods/web/proxy"


def seen(url: str) -> str:
    return through(url, PREFIX, "10.42.0.7:80", "api.example:6443")


@pytest.mark.parametrize(
    ("url", "result"),
    [
        ("/rewriteme", f"{PREFIX}/rewriteme"),
        ("/", f"{PREFIX}/"),
        ("/a/?q=1#f", f"{PREFIX}/a/?q=1#f"),
        ("http://10.42.0.7:80/a", f"{PREFIX}/a"),
        ("https://api.example:6443/a", f"https://api.example:6443{PREFIX}/a"),
        (f"{PREFIX}/a", f"{PREFIX}/a"),
        ("relative", "relative"),
        ("#here", "#here"),
        ("https://elsewhere.example/a", "https://elsewhere.example/a"),
        ("http://[broken/a", "http://[broken/a"),
    ],
)
def test_only_links_to_the_same_host_go_through_the_proxy(url: str, result: str) -> None:
    assert seen(url) == result


@pytest.mark.parametrize(
    ("page", "result"),
    [
        (b'<a href="/x">t</a>', f'<a href="{PREFIX}/x">t</a>'.encode()),
        (b"<A class=c HREF='/x?a=1&amp;b=2'>", f'<A class=c HREF="{PREFIX}/x?a=1&amp;b=2">'.encode()),
        (b"<img alt='>' src=/x><p>", f"<img alt='>' src=\"{PREFIX}/x\"><p>".encode()),
        (b'<a data-href="/x" title="/y">', b'<a data-href="/x" title="/y">'),
        (b'<!-- <a href="/x"> --><p href="/y">', b'<!-- <a href="/x"> --><p href="/y">'),
        (
            b"<script>'<a href=\"/x\">'</script><a href=/y>",
            f'<script>\'<a href="/x">\'</script><a href="{PREFIX}/y">'.encode(),
        ),
        (b'<a href="\xff">', b'<a href="\xff">'),
    ],
)
def test_the_attributes_that_hold_urls_are_rewritten_and_nothing_else(page: bytes, result: bytes) -> None:
    assert rewritten(page, seen) == result


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.sampled_from([b"<a ", b"href=", b'"', b"'", b"/x", b">", b"<!--", b"-->", b"<script", b"</script>"]))
)
def test_a_page_without_rewriting_stays_as_it_is(parts: list[bytes]) -> None:
    page = b"".join(parts)
    assert rewritten(page, lambda url: url) == page
