"""Request bodies: bytes in one of the formats we take, out comes an object of the kind that the URL names.

Source: k8s.io/apiserver, pkg/endpoints/handlers/{create,update,rest}.go; k8s.io/apimachinery, pkg/runtime/serializer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from havre.api import protobuf, schemas
from havre.api.errors import BadRequest, Invalid, UnsupportedMediaType
from havre.api.meta import GVK, Obj
from havre.api.strategy.storage import fold_string_data
from havre.control.apiserver.negotiate import JSON, PROTOBUF, SUPPORTED, YAML
from havre.control.apiserver.objects import Options
from havre.control.apiserver.resources import Registry, Resource
from havre.kit.field import invalid, not_supported, too_long
from havre.lang import json, yaml
from havre.lang.schema import Compiler
from havre.lang.structural.types import check_types

_SECRET = GVK("", "v1", "Secret")
MAX_MANAGER = 128  # bytes
VALIDATIONS = ("Ignore", "Warn", "Strict")


def media_of(content_type: str) -> str:
    """The type without its parameters; none at all means JSON."""
    return content_type.partition(";")[0].strip() or JSON


def parse(body: bytes, content_type: str, kind: str) -> Any:
    """The value of a body. Raises BadRequest, UnsupportedMediaType."""
    media = media_of(content_type)
    try:
        if media == JSON:
            return json.loads(body)
        if media == YAML:
            return yaml.load(body.decode())
        if media == PROTOBUF:
            return _protobuf(body)
    except (json.JSONError, yaml.YAMLError, UnicodeDecodeError) as e:
        shown = body[:256].decode(errors="replace") or "<empty>"
        what = "json parse error" if media == JSON else "yaml parse error"
        raise BadRequest(
            f"the object provided is unrecognized (must be of type {kind}): "
            f"couldn't get version/kind; {what}: {e} ({shown})"
        ) from e
    names = ", ".join(SUPPORTED)
    raise UnsupportedMediaType(
        f"the body of the request was in an unknown format - accepted media types include: {names}"
    )


def _protobuf(body: bytes) -> Obj:
    try:
        return protobuf.decode(body)
    except protobuf.ProtobufError as e:
        raise BadRequest(str(e)) from e


def decode(registry: Registry, resource: Resource, body: bytes, content_type: str, options: Options) -> Obj:
    """The object of a create or update: right kind, right types, unknown fields dropped and told, defaults filled
    in.
    """
    kind = resource.kind.kind
    obj = parse(body, content_type, kind)
    if obj is None and resource.builtin and body:  # null is the object in which nothing is set
        obj = {}
    if not isinstance(obj, dict):
        shown = body[:256].decode(errors="replace")
        raise BadRequest(
            f"the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; "
            f"json parse error: expected an object, found {type(obj).__name__} ({shown})"
        )
    told = _repeated(body, media_of(content_type), obj, options)
    _as_kind(registry, resource, obj)
    refine(resource, obj, options, told)
    return obj


def unstored(body: bytes, content_type: str, gvk: GVK) -> Obj:
    """The body of a kind that is answered and not stored, with kind, apiVersion and metadata. Raises BadRequest."""
    obj = parse(body, content_type, gvk.kind)
    if not isinstance(obj, dict):
        raise BadRequest(f"the object provided is unrecognized (must be of type {gvk.kind}): expected an object")
    if obj.get("kind") not in (None, "", gvk.kind):
        raise BadRequest(f"the kind in the data ({obj['kind']}) does not match the expected kind ({gvk.kind})")
    return typed({**obj, "kind": gvk.kind, "apiVersion": gvk.api_version, "metadata": obj.get("metadata") or {}}, gvk)


def typed(obj: Obj, gvk: GVK) -> Obj:
    """`obj` itself, if its fields have the types of its kind. Raises BadRequest."""
    if why := _checker(gvk)(obj):
        raise BadRequest(f'{gvk.kind} in version "{gvk.version}" cannot be handled as a {gvk.kind}: {why}')
    return obj


@cache
def _checker(gvk: GVK) -> Callable[[Obj], str]:
    """Compiled when the kind is first sent: there are ten of them."""
    return check_types(_schemas().named(schemas.schema_name(gvk)))


@cache
def _schemas() -> Compiler:
    return Compiler(schemas.definitions())


def _as_kind(registry: Registry, resource: Resource, obj: Obj) -> None:
    """Checks that the object is of this kind and version; a built-in one may leave both out."""
    wanted = resource.gvk
    if not resource.builtin and not obj.get("kind"):
        raise BadRequest(
            f"the object provided is unrecognized (must be of type {wanted.kind}): Object 'Kind' is missing"
        )
    obj["kind"], obj["apiVersion"] = obj.get("kind") or wanted.kind, obj.get("apiVersion") or wanted.api_version
    if not isinstance(obj["kind"], str) or not isinstance(obj["apiVersion"], str):
        raise BadRequest(
            f"the object provided is unrecognized (must be of type {wanted.kind}): kind and apiVersion must be strings"
        )
    if obj.get("metadata") is None:
        obj["metadata"] = {}
    if not isinstance(obj["metadata"], dict):
        raise BadRequest(
            f'{wanted.kind} in version "{wanted.version}" cannot be handled as a {wanted.kind}: '
            "metadata must be an object"
        )
    found = GVK.of(obj)
    if found == wanted:
        return
    other = registry.of_kind(*found)
    if found.kind == wanted.kind and (not resource.builtin or (other is not None and found.group == wanted.group)):
        raise BadRequest(
            f"the API version in the data ({obj['apiVersion']}) does not match "
            f"the expected API version ({wanted.api_version})"
        )
    if not resource.builtin:
        name = obj["metadata"].get("name") or ""
        raise Invalid.of(found.group, found.kind, str(name), [invalid("kind", found.kind, f"must be {wanted.kind}")])
    if other is None:
        why = f'no kind "{found.kind}" is registered for version "{obj["apiVersion"]}"'
    else:
        why = (
            f"converting ({found.version}.{found.kind}) to ({wanted.group or 'core'}.{wanted.kind}): unknown conversion"
        )
    raise BadRequest(f'{found.kind} in version "{found.version}" cannot be handled as a {wanted.kind}: {why}')


def _repeated(body: bytes, media: str, parsed: Any, options: Options) -> list[str]:
    """What to tell about keys that a body has twice; a message in protobuf has none."""
    if media == JSON:
        return duplicates(body, parsed, options)
    if media == YAML and options.field_validation != "Ignore":
        try:
            yaml.load(body, strict=True)
        except yaml.YAMLError as e:
            return [str(e)] if options.field_validation == "Strict" else yaml_warnings(e)
    return []


def yaml_warnings(error: yaml.YAMLError) -> list[str]:
    """One warning a line: a header cannot hold more."""
    return [line.strip() for line in str(error).removeprefix("yaml: unmarshal errors:").splitlines() if line.strip()]


def duplicates(body: bytes, parsed: Any, options: Options) -> list[str]:
    """What to tell about keys that a JSON body has twice."""
    if options.field_validation == "Ignore":
        return []
    return [f'duplicate field "{path}"' for path in json.duplicate_keys(body, parsed)]


def refine(resource: Resource, obj: Obj, options: Options, told: list[str]) -> None:
    """Types, unknown fields and defaults of a decoded or patched object, in place. `told` are problems found before."""
    rules, kind = resource.rules, resource.gvk
    why = rules.check_types(obj)
    if why:
        raise BadRequest(f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: {why}')
    dropped = rules.prune(obj)
    if options.field_validation != "Ignore":
        strict = [f'unknown field "{path}"' for path in dropped] + told
        if strict and options.field_validation == "Strict":
            raise BadRequest(
                f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: '
                f"strict decoding error: {', '.join(strict)}"
            )
        options.warnings += strict
    rules.default(obj)
    if "stringData" in obj and kind == _SECRET:  # before anybody asks who set which field
        fold_string_data(obj)


def check_options(params: dict[str, str], kind: str) -> None:
    """dryRun and fieldValidation of a write. Raises Invalid; `kind` is CreateOptions, UpdateOptions or PatchOptions."""
    errors = []
    dry_run = params.get("dryRun")
    if dry_run not in (None, "", "All"):
        errors.append(not_supported("dryRun", [dry_run], ("All",)))
    validation = params.get("fieldValidation")
    if validation not in (None, "", *VALIDATIONS):
        errors.append(not_supported("fieldValidation", validation, ("", *VALIDATIONS)))
    manager = params.get("fieldManager", "")
    if len(manager.encode()) > MAX_MANAGER:
        errors.append(too_long("fieldManager", MAX_MANAGER))
    if manager and not manager.isprintable():
        at = next(n for n, c in enumerate(manager) if not c.isprintable())
        why = f"invalid character U+{ord(manager[at]):04X} (at position {at})"
        errors.append(invalid("fieldManager", manager, why))
    if errors:
        raise Invalid.of("meta.k8s.io", kind, "", errors)
