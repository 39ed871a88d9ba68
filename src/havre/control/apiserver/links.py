"""Links of a page that is seen through the proxy: `/style.css` of a pod is …/pods/web/proxy/style.css of the API.

Rewritten are absolute paths, and URLs of the host that was asked, in the attributes of HTML that hold a URL, and in the
`Location` of a redirect. Everything else of a page is passed on byte for byte; scripts make their links themselves.

Source: k8s.io/apimachinery, pkg/util/proxy/transport.go.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from html import escape, unescape
from urllib.parse import urlsplit, urlunsplit

PAGE_LIMIT = 1 << 20  # bytes of a page; one that is longer is passed on as it is

_ATTRIBUTES = {
    "a": {"href"},
    "applet": {"codebase"},
    "area": {"href"},
    "audio": {"src"},
    "base": {"href"},
    "blockquote": {"cite"},
    "body": {"background"},
    "button": {"formaction"},
    "command": {"icon"},
    "del": {"cite"},
    "embed": {"src"},
    "form": {"action"},
    "frame": {"longdesc", "src"},
    "head": {"profile"},
    "html": {"manifest"},
    "iframe": {"longdesc", "src"},
    "img": {"longdesc", "src", "usemap"},
    "input": {"formaction", "src", "usemap"},
    "ins": {"cite"},
    "link": {"href"},
    "object": {"classid", "codebase", "data", "usemap"},
    "q": {"cite"},
    "script": {"src"},
    "source": {"src"},
    "video": {"poster", "src"},
}
_RAW = frozenset({"script", "style", "textarea", "title", "xmp"})  # elements whose text holds no tags
# A comment, or a tag with its attributes. Nothing is given back (++ *+), so every byte is looked at about once.
_TAG = re.compile(rb"""<!--|<([a-zA-Z][a-zA-Z0-9]*+)((?:[^>"']++|"[^"]*+"|'[^']*+')*+)>?""")
_ATTRIBUTE = re.compile(rb"""(?<![^\s"'/])([a-zA-Z-]++)(\s*+=\s*+)("[^"]*+"|'[^']*+'|[^\s"'>]++)""")


def rewritten(page: bytes, change: Callable[[str], str]) -> bytes:
    """The page with `change` applied to every URL."""
    lower, out, done, at = page.lower(), bytearray(), 0, 0
    while found := _TAG.search(page, at):
        at = found.end()
        if found[1] is None:
            end = page.find(b"-->", at)
            at = len(page) if end < 0 else end + 3
            continue
        name = found[1].decode("ascii").lower()
        if wanted := _ATTRIBUTES.get(name):
            out += page[done : found.start(2)] + _attributes(found[2], wanted, change)
            done = found.end(2)
        if name in _RAW:
            end = lower.find(b"</" + name.encode(), at)
            at = len(page) if end < 0 else end
    return bytes(out + page[done:])


def _attributes(text: bytes, wanted: Collection[str], change: Callable[[str], str]) -> bytes:
    def one(found: re.Match[bytes]) -> bytes:
        if found[1].decode("ascii").lower() not in wanted:
            return found[0]
        try:
            old = unescape(found[3].strip(b"\"'").decode())
        except UnicodeDecodeError:
            return found[0]
        new = change(old)
        return found[0] if new == old else found[1] + found[2] + b'"' + escape(new).encode() + b'"'

    return _ATTRIBUTE.sub(one, text)


def through(url: str, prefix: str, target: str, asked: str) -> str:
    """`url` as the client has to ask for it. `target` is the host behind the proxy, `asked` that of the request."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    if parts.netloc not in ("", target, asked) or not parts.path.startswith("/"):
        return url
    kept = (parts.scheme, parts.netloc) if parts.netloc == asked else ("", "")
    path = parts.path if parts.path.startswith(prefix) else prefix.rstrip("/") + parts.path
    return urlunsplit((*kept, path, parts.query, parts.fragment))
