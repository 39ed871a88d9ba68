"""What a CustomResourceDefinition says about itself: defaults, names it was granted, conditions, conversion of its
objects.

Pure functions on the object; whoever stores it calls them. What needs a compiled schema is in the API server.

Source: k8s.io/apiextensions-apiserver, pkg/apis/apiextensions/v1/defaults.go, pkg/registry/customresourcedefinition,
pkg/controller/{status,establish,apiapproval}, pkg/apiserver/conversion.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from havre.api.meta import Obj

APPROVED: Final = "api-approved.kubernetes.io"
_APPROVAL_PULL: Final = "https://github.com/kubernetes/enhancements/pull/1111"
_MISSING = f'protected groups must have approval annotation "{APPROVED}", see {_APPROVAL_PULL}'
_INVALID = (
    f'protected groups must have approval annotation "{APPROVED}" with either a URL or a reason starting with '
    f'"unapproved", see {_APPROVAL_PULL}'
)
_HTTPS = 443
_CONDITION: Final = {"type": "", "status": "", "lastTransitionTime": None}  # what Go writes of an empty one
CONVERSION_REVIEW_VERSIONS: Final = ("v1", "v1beta1")


class ConversionError(Exception):
    """A conversion webhook that answered nonsense, or that is not configured."""


def default_crd(crd: Obj) -> None:
    """Fills in what a client may leave out, in place."""
    spec = crd.setdefault("spec", {})
    names = spec.setdefault("names", {})
    kind = names.get("kind") or ""
    if not names.get("singular"):
        names["singular"] = kind.lower()
    if not names.get("listKind") and kind:
        names["listKind"] = f"{kind}List"
    conversion = spec.get("conversion")
    if conversion is None:
        conversion = spec["conversion"] = {"strategy": "None"}
    service = ((conversion.get("webhook") or {}).get("clientConfig") or {}).get("service")
    if service is not None:
        service.setdefault("port", _HTTPS)
    for found in (crd.get("status") or {}).get("conditions") or ():
        for key, empty in _CONDITION.items():
            found.setdefault(key, empty)


def prepare_update(new: Obj, old: Obj) -> None:
    """A write of the definition leaves the status, and remembers every version that objects were stored in."""
    new["status"] = dict(old.get("status") or {})
    remember_storage(new)


def remember_storage(crd: Obj) -> None:
    """Adds the storage version to status.storedVersions."""
    stored = list(crd["status"].get("storedVersions") or ())
    version = storage_version(crd)
    if version and version not in stored:
        stored.append(version)
    if stored:
        crd["status"]["storedVersions"] = stored


def storage_version(crd: Obj) -> str:
    """The version that objects are stored in; "" when there is none."""
    return next((v["name"] for v in crd["spec"].get("versions") or () if v.get("storage")), "")


def condition(crd: Obj, kind: str) -> Obj | None:
    found = ((crd.get("status") or {}).get("conditions")) or ()
    return next((c for c in found if c.get("type") == kind), None)


def is_true(crd: Obj, kind: str) -> bool:
    found = condition(crd, kind)
    return found is not None and found.get("status") == "True"


def accept_names(crd: Obj, others: Iterable[Obj]) -> tuple[Obj, list[Obj]]:
    """status.acceptedNames and the conditions NamesAccepted, Established and, for a protected group,
    KubernetesAPIApprovalPolicyConformant; `others` are all definitions, this one may be among them."""
    spec, status = crd["spec"], crd.get("status") or {}
    wanted, had = spec["names"], status.get("acceptedNames") or {}
    resources, kinds = _taken(crd, others)
    accepted: Obj = dict(had)
    problem = ("", "")
    for key, reason, taken in (
        ("plural", "PluralConflict", resources),
        ("singular", "SingularConflict", resources),
        ("shortNames", "ShortNamesConflict", resources),
        ("kind", "KindConflict", kinds),
        ("listKind", "ListKindConflict", kinds),
    ):
        clash = _clash(wanted.get(key), had.get(key), taken)
        if clash:
            problem = (reason, clash)
        elif wanted.get(key):
            accepted[key] = wanted[key]
        else:
            accepted.pop(key, None)
    if wanted.get("categories"):
        accepted["categories"] = wanted["categories"]
    names = _condition("NamesAccepted", not problem[0], problem[0] or "NoConflicts", problem[1] or "no conflicts found")
    approval = approval_condition(crd)
    return accepted, [names, _established(crd, not problem[0]), *([approval] if approval else [])]


def _taken(crd: Obj, others: Iterable[Obj]) -> tuple[set[str], set[str]]:
    resources: set[str] = set()
    kinds: set[str] = set()
    for other in others:
        names = (other.get("status") or {}).get("acceptedNames") or {}
        if other["spec"]["group"] != crd["spec"]["group"] or other["metadata"]["name"] == crd["metadata"]["name"]:
            continue
        resources |= {names.get("plural", ""), names.get("singular", ""), *(names.get("shortNames") or ())}
        kinds |= {names.get("kind", ""), names.get("listKind", "")}
    return resources, kinds


def _clash(wanted: Any, had: Any, taken: set[str]) -> str:
    if isinstance(wanted, list):
        used = [name for name in wanted if name not in (had or ()) and name in taken]
        words = [f'"{name}" is already in use' for name in used]
        return f"[{', '.join(words)}]" if len(words) > 1 else "".join(words)
    return f'"{wanted}" is already in use' if wanted and wanted != had and wanted in taken else ""


def _established(crd: Obj, names_accepted: bool) -> Obj:
    if is_true(crd, "Established") or names_accepted:
        old = condition(crd, "Established")
        if old and old.get("status") == "True":
            return {key: value for key, value in old.items() if key != "lastTransitionTime"}
        return _condition("Established", True, "InitialNamesAccepted", "the initial names have been accepted")
    return _condition("Established", False, "NotAccepted", "not all names are accepted")


def _condition(kind: str, status: bool, reason: str, message: str) -> Obj:
    return {"type": kind, "status": str(status), "reason": reason, "message": message}


def is_protected(group: str) -> bool:
    """Groups of the Kubernetes community, whose APIs were reviewed."""
    return any(group == name or group.endswith(f".{name}") for name in ("k8s.io", "kubernetes.io"))


def approval_of(annotations: Obj) -> tuple[str, str]:
    """(reason, message) of the approval annotation of a protected group."""
    text = annotations.get(APPROVED) or ""
    if not text:
        return "MissingAnnotation", _MISSING
    if text.startswith("unapproved"):
        return "UnapprovedAnnotation", f'not approved: "{text}"'
    url = urlsplit(text)
    if url.scheme and url.netloc:
        return "ApprovedAnnotation", f"approved in {text}"
    return "InvalidAnnotation", _INVALID


def approval_condition(crd: Obj) -> Obj | None:
    if not is_protected(crd["spec"]["group"]):
        return None
    reason, message = approval_of(crd["metadata"].get("annotations") or {})
    return _condition("KubernetesAPIApprovalPolicyConformant", reason == "ApprovedAnnotation", reason, message)


def with_conditions(old: Sequence[Obj], new: Iterable[Obj], now: str) -> list[Obj]:
    """The conditions of a status after new ones; a time changes only with the status of its condition."""
    kept = {c.get("type", ""): c for c in old}
    for found in new:
        before = kept.get(found["type"])
        same = before is not None and before.get("status") == found["status"] and before.get("lastTransitionTime")
        kept[found["type"]] = {"lastTransitionTime": before["lastTransitionTime"] if before and same else now, **found}
    return list(kept.values())


def convert(obj: Obj, to_version: str, crd: Obj) -> Obj:
    """The object in another version when versions differ in name only (strategy None)."""
    api_version = f"{crd['spec']['group']}/{to_version}"
    return obj if obj.get("apiVersion") == api_version else {**obj, "apiVersion": api_version}


def conversion_review(objects: Sequence[Obj], to_version: str, crd: Obj, uid: str) -> Obj:
    """The request to a conversion webhook. Raises ConversionError."""
    webhook = (crd["spec"].get("conversion") or {}).get("webhook") or {}
    offered = webhook.get("conversionReviewVersions") or ()
    version = next((v for v in offered if v in CONVERSION_REVIEW_VERSIONS), None)
    if version is None:
        raise ConversionError("no supported conversion review versions")
    request = {"uid": uid, "desiredAPIVersion": f"{crd['spec']['group']}/{to_version}", "objects": list(objects)}
    return {"kind": "ConversionReview", "apiVersion": f"apiextensions.k8s.io/{version}", "request": request}


def converted_objects(objects: Sequence[Obj], review: Obj, answer: Obj) -> list[Obj]:
    """What a webhook made of the objects of a review; forbidden changes are undone. Raises ConversionError."""
    what = (
        f"conversion webhook for {objects[0].get('apiVersion', '')}, Kind={objects[0].get('kind', '')}"
        if objects
        else ""
    )
    try:
        made = _answered(review, answer)
        if len(made) != len(objects):
            raise ConversionError(f"returned {len(made)} objects, expected {len(objects)}")
        wanted = review["request"]["desiredAPIVersion"]
        return [_checked(i, old, new, wanted) for i, (old, new) in enumerate(zip(objects, made, strict=True))]
    except ConversionError as e:
        words = str(e) if str(e).startswith("returned") else f"failed: {e}"
        raise ConversionError(f"{what} {words}") from e


def _answered(review: Obj, answer: Obj) -> list[Obj]:
    if review["apiVersion"].endswith("/v1"):
        got = f"{answer.get('apiVersion', '')}, Kind={answer.get('kind', '')}"
        expected = "apiextensions.k8s.io/v1, Kind=ConversionReview"
        if got != expected:
            raise ConversionError(f"expected webhook response of {expected}, got {got}")
    response = answer.get("response")
    if not isinstance(response, dict):
        raise ConversionError("no response provided")
    uid = review["request"]["uid"]
    if review["apiVersion"].endswith("/v1") and response.get("uid") != uid:
        raise ConversionError(f'expected response.uid="{uid}", got "{response.get("uid", "")}"')
    result = response.get("result") or {}
    if result.get("status") != "Success":
        text = f"response.result.status was '{result.get('status', '')}', not 'Success'"
        raise ConversionError(result.get("message") or text)
    return list(response.get("convertedObjects") or ())


def _checked(index: int, old: Obj, new: Obj, wanted: str) -> Obj:
    """One converted object: same identity, only labels and annotations may differ."""
    where = f"returned invalid object at index {index}"
    if not isinstance(new, dict) or new.get("apiVersion") != wanted:
        got = new.get("apiVersion") if isinstance(new, dict) else new
        raise ConversionError(f"{where}: invalid groupVersion (expected {wanted}, received {got})")
    if new.get("kind") != old.get("kind"):
        raise ConversionError(f"{where}: invalid kind (expected {old.get('kind')}, received {new.get('kind')})")
    before, after = old.get("metadata") or {}, new.get("metadata")
    if not isinstance(after, dict):
        raise ConversionError(
            f"returned invalid metadata in object at index {index}: missing metadata in converted object"
        )
    for key, word in (("name", "name"), ("namespace", "namespace"), ("uid", "UID")):
        if (before.get(key) or "") != (after.get(key) or ""):
            raise ConversionError(
                f"{where}: must have the same {word}: {before.get(key) or ''} != {after.get(key) or ''}"
            )
    metadata = {key: value for key, value in before.items() if key not in ("labels", "annotations")}
    for key in ("labels", "annotations"):
        texts = after.get(key)
        if texts is None:
            continue
        if not isinstance(texts, dict) or not all(isinstance(v, str) for v in texts.values()):
            raise ConversionError(
                f"returned invalid metadata in object at index {index}: metadata.{key} must map strings"
            )
        metadata[key] = texts
    return {**new, "metadata": metadata}
