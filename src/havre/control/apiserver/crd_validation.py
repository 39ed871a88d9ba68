"""What is wrong with a CustomResourceDefinition, in the words of kube-apiserver.

Where every version has the same schema (subresources, columns, selectable fields), problems are reported at
`spec.validation` (`spec.subresources`, …), because upstream's internal form keeps it there once.

Source: k8s.io/apiextensions-apiserver, pkg/apis/apiextensions/validation/validation.go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from havre.api.crd import APPROVED, CONVERSION_REVIEW_VERSIONS, approval_of, is_protected, is_true
from havre.api.meta import Obj
from havre.control.apiserver.crd_schema import schema_errors, unsupported
from havre.kit.field import FieldError, Problem, duplicate, forbidden, invalid, required
from havre.kit.names import dns1035_label, dns1123_subdomain
from havre.lang.cel.rules import field_path
from havre.lang.schema import Compiler, Schema

Raw = Mapping[str, Any]
Errors = Iterator[FieldError]

SELECTABLE_FIELDS_MAX: Final = 8
_COLUMN_TYPES = ("boolean", "date", "integer", "number", "string")
_COLUMN_FORMATS = ("byte", "date", "date-time", "double", "float", "int32", "int64", "password")
_SHARED = {  # field of a version: where upstream keeps it when all versions agree
    "schema": "validation",
    "subresources": "subresources",
    "additionalPrinterColumns": "additionalPrinterColumns",
    "selectableFields": "selectableFields",
}


def validate_crd(crd: Obj, old: Obj | None = None) -> list[FieldError]:
    """Every problem of a definition with its defaults; `old` is the stored one on an update."""
    spec = crd.get("spec") or {}
    return [*_name(crd, spec), *_spec(spec), *_immutable(spec, old), *_status(crd, spec), *_approval(crd, spec, old)]


def _name(crd: Obj, spec: Obj) -> Errors:
    name = crd["metadata"].get("name") or ""
    if name != f"{(spec.get('names') or {}).get('plural') or ''}.{spec.get('group') or ''}":
        yield invalid("metadata.name", name, 'must be spec.names.plural+"."+spec.group')


def _spec(spec: Obj) -> Errors:
    group = spec.get("group") or ""
    if not group:
        yield required("spec.group")
    elif words := dns1123_subdomain(group):
        yield invalid("spec.group", group, ",".join(words))
    elif "." not in group:
        yield invalid("spec.group", group, "should be a domain with at least one dot")
    yield from _one_of("spec.scope", spec.get("scope") or "", ("Cluster", "Namespaced"))
    yield from _versions(spec)
    yield from _names(spec.get("names") or {}, "spec.names", wanted=True)
    shared = _shared(spec)
    yield from _parts(
        shared, "spec", "validation", status=bool((shared.get("subresources") or {}).get("status") is not None)
    )
    yield from _conversion(spec.get("conversion"))
    if spec.get("preserveUnknownFields"):
        better = "set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead"
        yield invalid("spec.preserveUnknownFields", True, f"cannot set to true, {better}")


def _one_of(path: str, value: str, allowed: Sequence[str]) -> Errors:
    if not value:
        yield required(path)
    elif value not in allowed:
        yield unsupported(path, value, allowed)


def _shared(spec: Obj) -> Obj:
    """The fields that all versions have alike."""
    versions = spec.get("versions") or []
    first = versions[0] if versions else {}
    return {key: first[key] for key in _SHARED if first.get(key) and all(v.get(key) == first[key] for v in versions)}


def _versions(spec: Obj) -> Errors:
    versions: list[Obj] = spec.get("versions") or []
    shared = _shared(spec)
    for index, version in enumerate(versions):
        if not (version.get("schema") or {}).get("openAPIV3Schema"):
            yield required(f"spec.versions[{index}].schema.openAPIV3Schema")
    for index, version in enumerate(versions):
        path = f"spec.versions[{index}]"
        if words := dns1035_label(version.get("name") or ""):
            yield invalid(f"{path}.name", version.get("name") or "", ",".join(words))
        yield from _deprecation(version, path)
        own = {key: value for key, value in version.items() if key not in shared}
        status = (version.get("subresources") or {}).get("status") is not None
        yield from _parts(own, path, "schema", status=status)
    names = [v.get("name") for v in versions]
    if len(set(names)) < len(names):
        yield invalid("spec.versions", versions, "must contain unique version names")
    if sum(bool(v.get("storage")) for v in versions) != 1:
        yield invalid("spec.versions", versions, "must have exactly one version marked as storage version")
    if versions and (words := dns1035_label(names[0] or "")):
        yield invalid("spec.version", names[0] or "", ",".join(words))


def _deprecation(version: Obj, path: str) -> Errors:
    text = version.get("deprecationWarning")
    if text is None:
        return
    place = f"{path}.deprecationWarning"
    if not version.get("deprecated"):
        yield invalid(place, text, "can only be set for deprecated versions")
        return
    if len(text.encode()) > 256:
        yield invalid(place, text, "must be <= 256 characters long")
    if not text:
        yield invalid(place, text, "must not be an empty string")
    if not text.isprintable():
        at = next(i for i, c in enumerate(text) if not c.isprintable())
        words = f"non-printable character found at index {len(text[:at].encode())}"
        yield invalid(place, text, f"must only contain printable UTF-8 characters; {words}")


def _parts(part: Obj, path: str, schema_key: str, *, status: bool) -> Errors:
    """Schema, subresources, columns and selectable fields of a version, or of all versions."""
    raw = (part.get("schema") or {}).get("openAPIV3Schema")
    if raw:
        yield from schema_errors(raw, f"{path}.{schema_key}.openAPIV3Schema", status=status)
    yield from _subresources(part.get("subresources") or {}, f"{path}.subresources")
    for index, column in enumerate(part.get("additionalPrinterColumns") or ()):
        yield from _column(column, f"{path}.additionalPrinterColumns[{index}]")
    if raw and part.get("selectableFields"):
        yield from _selectable(part["selectableFields"], Compiler().compile(raw), f"{path}.selectableFields")


def _names(names: Obj, path: str, *, wanted: bool) -> Errors:
    keys = ("plural", "singular", "kind", "listKind")
    if wanted:
        yield from (required(f"{path}.{key}") for key in keys if not names.get(key))
    for key in keys:
        name = names.get(key) or ""
        mixed = key in ("kind", "listKind")
        if name and (words := dns1035_label(name.lower() if mixed else name)):
            yield invalid(
                f"{path}.{key}", name, "may have mixed case, but should otherwise match: " * mixed + ",".join(words)
            )
    yield from _labels(names.get("shortNames"), f"{path}.shortNames")
    if names.get("kind") and names.get("kind") == names.get("listKind"):
        yield invalid(f"{path}.listKind", names["listKind"], "kind and listKind may not be the same")
    yield from _labels(names.get("categories"), f"{path}.categories")


def _labels(values: Sequence[str] | None, path: str) -> Errors:
    for index, value in enumerate(values or ()):
        if words := dns1035_label(value):
            yield invalid(f"{path}[{index}]", value, ",".join(words))


def _column(column: Obj, path: str) -> Errors:
    if not column.get("name"):
        yield required(f"{path}.name")
    words = f"must be one of {','.join(_COLUMN_TYPES)}"
    if not column.get("type"):
        yield required(f"{path}.type", words)
    elif column["type"] not in _COLUMN_TYPES:
        yield invalid(f"{path}.type", column["type"], words)
    if column.get("format") and column["format"] not in _COLUMN_FORMATS:
        yield invalid(f"{path}.format", column["format"], f"must be one of {','.join(_COLUMN_FORMATS)}")
    yield from _json_path(column.get("jsonPath"), f"{path}.JSONPath")


def _json_path(text: str | None, path: str, below: tuple[str, ...] = (), words: str = "") -> Errors:
    if not text:
        yield required(path)
    elif text[0] != ".":
        yield invalid(path, text, "must be a simple json path starting with .")
    elif below and not text.startswith(below):
        yield invalid(path, text, words)


def _subresources(subresources: Obj, path: str) -> Errors:
    scale = subresources.get("scale")
    if scale is None:
        return
    yield from _json_path(
        scale.get("specReplicasPath"),
        f"{path}.scale.specReplicasPath",
        (".spec.",),
        "should be a json path under .spec",
    )
    yield from _json_path(
        scale.get("statusReplicasPath"),
        f"{path}.scale.statusReplicasPath",
        (".status.",),
        "should be a json path under .status",
    )
    if scale.get("labelSelectorPath"):
        words = "should be a json path under either .spec or .status"
        yield from _json_path(
            scale["labelSelectorPath"], f"{path}.scale.labelSelectorPath", (".spec.", ".status."), words
        )


def _selectable(fields: Sequence[Obj], schema: Schema, path: str) -> Errors:
    seen: set[str] = set()
    for index, item in enumerate(fields):
        place, text = f"{path}[{index}].jsonPath", item.get("jsonPath") or ""
        if not text:
            yield required(place)
            continue
        try:
            found, shape = field_path(text, schema, brackets=False)
        except ValueError as e:
            yield invalid(place, text, f"is an invalid path: {e}")
            continue
        if found.partition(".")[0] == "metadata":
            yield invalid(place, text, "must not point to fields in metadata")
        if shape.type not in ("string", "boolean", "integer"):
            words = (
                "must point to a field of type string, boolean or integer. "
                "Enum string fields and strings with formats are allowed."
            )
            yield invalid(place, text, words)
        if found in seen:
            yield duplicate(place, text)
        seen.add(found)
    if len(seen) > SELECTABLE_FIELDS_MAX:
        words = f"{len(seen)}: must have at most {SELECTABLE_FIELDS_MAX} items"
        yield FieldError(Problem.TOO_MANY, path, len(seen), words)


def _conversion(conversion: Obj | None) -> Errors:
    if conversion is None:
        return
    path = "spec.conversion"
    strategy, webhook = conversion.get("strategy") or "", conversion.get("webhook") or {}
    config, versions = webhook.get("clientConfig"), webhook.get("conversionReviewVersions") or []
    yield from _one_of(f"{path}.strategy", strategy, ("None", "Webhook"))
    if strategy != "Webhook":
        words = "should not be set when strategy is not set to Webhook"
        if config is not None:
            yield forbidden(f"{path}.webhookClientConfig", words)
        if versions:
            yield forbidden(f"{path}.conversionReviewVersions", words)
        return
    if config is None:
        yield required(f"{path}.webhookClientConfig", "required when strategy is set to Webhook")
    else:
        yield from _client_config(config, f"{path}.webhookClientConfig")
    yield from _review_versions(versions, f"{path}.conversionReviewVersions")


def _client_config(config: Obj, path: str) -> Errors:
    url, service = config.get("url"), config.get("service")
    if (url is None) == (service is None):
        yield required(path, "exactly one of url or service is required")
    elif url is not None:
        yield from _webhook_url(url, f"{path}.url")
    elif service is not None:
        for key in ("name", "namespace"):
            if not service.get(key):
                yield required(f"{path}.service.{key}", f"service {key} is required")
        if not 0 < service.get("port", 443) < 65536:
            words = "port is not valid: must be between 1 and 65535, inclusive"
            yield invalid(f"{path}.service.port", service["port"], words)


def _webhook_url(url: str, path: str) -> Errors:
    form = "; desired format: https://host[/path]"
    parts = urlsplit(url)
    if parts.scheme != "https":
        yield invalid(path, parts.scheme, f"'https' is the only allowed URL scheme{form}")
    if not parts.netloc:
        yield invalid(path, parts.netloc, f"host must be specified{form}")
    if parts.username is not None:
        yield invalid(path, parts.username, "user information is not permitted in the URL")
    if parts.fragment:
        yield invalid(path, parts.fragment, "fragments are not permitted in the URL")
    if parts.query:
        yield invalid(path, parts.query, "query parameters are not permitted in the URL")


def _review_versions(versions: Sequence[str], path: str) -> Errors:
    if not versions:
        yield required(path)
        return
    for index, version in enumerate(versions):
        if version in versions[:index]:
            yield invalid(f"{path}[{index}]", version, "duplicate version")
        else:
            yield from (invalid(f"{path}[{index}]", version, words) for words in dns1035_label(version))
    if not set(versions) & set(CONVERSION_REVIEW_VERSIONS):
        yield invalid(path, list(versions), f"must include at least one of {', '.join(CONVERSION_REVIEW_VERSIONS)}")


def _immutable(spec: Obj, old: Obj | None) -> Errors:
    if old is None:
        return
    before = old["spec"]
    pairs = [("spec.group", spec.get("group"), before["group"])]
    for key in ("plural", *(("kind",) if is_true(old, "Established") else ())):
        pairs.append((f"spec.names.{key}", (spec.get("names") or {}).get(key), before["names"].get(key)))
    if is_true(old, "Established"):
        pairs.insert(0, ("spec.scope", spec.get("scope"), before.get("scope")))
    for path, new, was in pairs:
        if new != was:
            yield invalid(path, new, "field is immutable")


def _status(crd: Obj, spec: Obj) -> Errors:
    status = crd.get("status") or {}
    yield from _names(status.get("acceptedNames") or {}, "status.acceptedNames", wanted=False)
    stored, path = status.get("storedVersions") or [], "status.storedVersions"
    if not stored:
        yield invalid(path, None, "must have at least one stored version")
        return
    known = [v.get("name") for v in spec.get("versions") or ()]
    for version in spec.get("versions") or ():
        if version.get("storage") and version.get("name") not in stored:
            yield invalid(path, stored, f"must have the storage version {version.get('name')}")
    for index, name in enumerate(stored):
        if name not in known:
            words = (
                f"missing from spec.versions; {name} was previously a storage version, and must remain in "
                f"spec.versions until a storage migration ensures no data remains persisted in {name} "
                f"and removes {name} from status.storedVersions"
            )
            yield invalid(f"{path}[{index}]", name, words)


def _approval(crd: Obj, spec: Obj, old: Obj | None) -> Errors:
    if not is_protected(spec.get("group") or ""):
        return
    annotations = crd["metadata"].get("annotations") or {}
    reason, words = approval_of(annotations)
    if old is not None and approval_of(old["metadata"].get("annotations") or {})[0] == reason:
        return
    path = f"metadata.annotations[{APPROVED}]"
    if reason == "MissingAnnotation":
        yield required(path, words)
    elif reason == "InvalidAnnotation":
        yield invalid(path, annotations[APPROVED], words)
