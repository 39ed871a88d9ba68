"""Write `havre/api/data/shapes.json.zst`: how Go encodes each type of the API, read from the Go sources of Kubernetes.

A server in Go decodes an object into structures and encodes it again, so what is stored differs from what was sent:
empty fields vanish or appear, depending on `omitempty` and on whether the field is a pointer. The table keeps just
that.

    python -m tools.generate.shapes     needs `go` and the modules k8s.io/api, apimachinery and kube-aggregator in its
    cache

Table: {"generated": …, "roots": {"v1/Pod": "core.v1.Pod"}, "types": {"core.v1.Pod": {field: [zero, shape]}}}
  zero   "d" an empty value is dropped, "k" kept (a pointer), "f" an absent one is filled in
  shape  "s" text, "i" number, "b" boolean, "y" bytes, "q" quantity, "t" time, "u" time with microseconds,
         "x" integer or text, "r" anything, "#T" structure T, "[]S" list, "{}S" map
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import orjson
import zstandard

RELEASE = "v0.34.4"
OUT = Path(__file__).parents[2] / "src/havre/api/data/shapes.json.zst"
META = "k8s.io/apimachinery/pkg/apis/meta/v1"
_STRUCT = re.compile(r"^type (\w+) struct \{\n(.*?)^\}", re.M | re.S)
_NAMED = re.compile(r"^type (\w+) ([\w.\[\]*]+)\s*$", re.M)
_FIELD = re.compile(r"^\t(?:(\w+) )?\s*([\w.\[\]*]+)\s+`([^`]*)`", re.M)
_TAG = re.compile(r'json:"([^"]*)"')
_IMPORT = re.compile(r'^\s*(?:(\w+) )?"(k8s\.io/[^"]+)"', re.M)
_SCALARS = {"string": "s", "bool": "b", "byte": "s", "rune": "i", "float64": "i", "float32": "i", "any": "r"}
_SCALARS |= {f"{sign}int{bits}": "i" for sign in ("", "u") for bits in ("", "8", "16", "32", "64")}
_SPECIAL = {
    "k8s.io/apimachinery/pkg/api/resource.Quantity": "q",
    f"{META}.Time": "t",
    f"{META}.MicroTime": "u",
    f"{META}.Duration": "s",
    f"{META}.FieldsV1": "r",
    "k8s.io/apimachinery/pkg/util/intstr.IntOrString": "x",
    "k8s.io/apimachinery/pkg/runtime.RawExtension": "r",
    "k8s.io/apimachinery/pkg/runtime.Object": "r",
    "k8s.io/apimachinery/pkg/types.UID": "s",
    "k8s.io/apimachinery/pkg/types.NodeName": "s",
    "k8s.io/apimachinery/pkg/types.NamespacedName": "r",
}


class Package:
    """The declared types of one Go package; bodies are parsed when asked for."""

    def __init__(self, path: str, folder: Path) -> None:
        self.path = path
        self.structs: dict[str, str] = {}
        self.named: dict[str, str] = {}
        self.imports: dict[str, str] = {}
        for file in sorted(folder.glob("*.go")):
            if file.name.startswith("zz_") or file.name.endswith("_test.go") or file.name == "generated.pb.go":
                continue
            text = file.read_text()
            self.imports |= {alias or target.rsplit("/", 1)[-1]: target for alias, target in _IMPORT.findall(text)}
            self.structs |= dict(_STRUCT.findall(text))
            self.named |= {name: target for name, target in _NAMED.findall(text) if target != "struct"}


class Reader:
    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.packages: dict[str, Package] = {}
        self.types: dict[str, dict[str, list[str]]] = {}

    def package(self, path: str) -> Package:
        if path not in self.packages:
            module, _, rest = path.removeprefix("k8s.io/").partition("/")
            folder = self.cache / "k8s.io" / f"{module}@{RELEASE}" / rest
            self.packages[path] = Package(path, folder)
        return self.packages[path]

    def shape(self, package: Package, go: str) -> str:
        """The shape of a Go type as seen in `package`."""
        if go.startswith("*"):
            return self.shape(package, go[1:])
        if go == "[]byte":
            return "y"
        if go.startswith("[]"):
            return "[]" + self.shape(package, go[2:])
        if go.startswith("map["):
            return "{}" + self.shape(package, go[go.index("]") + 1 :])
        if go in _SCALARS:
            return _SCALARS[go]
        if "." in go:
            alias, name = go.split(".")
            target = package.imports[alias]
            return _SPECIAL.get(f"{target}.{name}") or self.shape(self.package(target), name)
        if special := _SPECIAL.get(f"{package.path}.{go}"):
            return special
        if go in package.named:
            return self.shape(package, package.named[go])
        return "#" + self.struct(package, go)

    def struct(self, package: Package, name: str) -> str:
        key = ".".join([*package.path.removeprefix("k8s.io/").split("/")[-2:], name])
        if key not in self.types:
            self.types[key] = fields = {}
            fields.update(self.fields(package, name))
        return key

    def fields(self, package: Package, name: str) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for _, go, tags in _FIELD.findall(package.structs[name]):
            tag = _TAG.search(tags)
            json_name, _, options = (tag.group(1) if tag else "").partition(",")
            if json_name == "-" or "protobuf-only" in tags:
                continue
            if not json_name:
                found |= self.embedded(package, go)
                continue
            found[json_name] = self.encoded(package, go, options)
        return found

    def embedded(self, package: Package, go: str) -> dict[str, list[str]]:
        if go.endswith("TypeMeta"):
            return {}
        shape = self.shape(package, go)
        return self.types[shape[1:]]

    def encoded(self, package: Package, go: str, options: str) -> list[str]:
        shape = self.shape(package, go)
        omits = "omitempty" in options
        is_struct = shape[0] in "#qtuxr" and not go.startswith("*")
        if "omitzero" in options:
            return ["d", shape]
        if go.startswith("*"):
            return ["k" if omits else "f", "*" + shape if not omits else shape]
        if is_struct and shape != "r":
            return ["f", shape]
        return ["d" if omits else "f", shape]


def main() -> None:
    cache = Path(subprocess.check_output(["go", "env", "GOMODCACHE"], text=True).strip())
    from havre.api.kinds import KINDS

    reader = Reader(cache)
    roots: dict[str, str] = {}
    for kind in KINDS:
        group, version = kind.group.split(".")[0] or "core", kind.version
        path = f"k8s.io/api/{group}/{version}"
        if kind.group == "apiregistration.k8s.io":
            path = f"k8s.io/kube-aggregator/pkg/apis/{group}/{version}"
        elif kind.group == "apiextensions.k8s.io":
            continue  # definitions carry JSON schemas, whose encoding is not regular: they have code of their own
        elif kind.group == "flowcontrol.apiserver.k8s.io":
            path = f"k8s.io/api/flowcontrol/{version}"
        api_version = f"{kind.group}/{version}" if kind.group else version
        roots[f"{api_version}/{kind.kind}"] = reader.struct(reader.package(path), kind.kind)
    roots["autoscaling/v1/Scale"] = reader.struct(reader.package("k8s.io/api/autoscaling/v1"), "Scale")
    source = f"k8s.io/api, apimachinery, kube-aggregator {RELEASE}: types.go"
    content = orjson.dumps({"generated": source, "roots": roots, "types": reader.types}, option=orjson.OPT_SORT_KEYS)
    OUT.write_bytes(zstandard.compress(content, 19))
    print(f"{OUT.name}: {len(roots)} kinds, {len(reader.types)} types, {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
