"""How a request to the API fails: one tree, each leaf a `Status` with its code and reason, on both sides of the wire.

ApiError
├── BadRequest 400            ├── Conflict 409                    ├── TooLarge 413
├── Unauthorized 401          ├── AlreadyExists 409               ├── UnsupportedMediaType 415
├── Forbidden 403             ├── Expired, Gone 410               ├── Invalid 422
├── NotFound 404              ├── NotAcceptable 406               ├── TooManyRequests 429
├── MethodNotAllowed 405      ├── Timeout 504                     └── InternalError 500, Unavailable 503

The server raises them, `machinery` raises the same ones when it reads a Status from any Kubernetes API server.

Source: k8s.io/apimachinery, pkg/api/errors/errors.go and pkg/apis/meta/v1 StatusReason.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from havre.api.meta import Obj
from havre.kit.field import FieldError


class ApiError(Exception):
    """A request that failed; `code`, `reason` and `details` are what the client sees in the Status."""

    code: ClassVar[int] = 500
    reason: ClassVar[str] = ""

    def __init__(self, message: str, *, details: Obj | None = None, code: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        self.status_code = code or self.code

    def status(self) -> Obj:
        """The metav1.Status object of this error."""
        status: Obj = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
        }
        if self.reason:
            status["reason"] = self.reason
        if self.details is not None:
            status["details"] = self.details
        status["code"] = self.status_code
        return status


class BadRequest(ApiError):
    code, reason = 400, "BadRequest"


class Unauthorized(ApiError):
    code, reason = 401, "Unauthorized"

    def __init__(self, message: str = "Unauthorized", **kw: Obj | None) -> None:
        super().__init__(message, details=kw.get("details"))


class Forbidden(ApiError):
    code, reason = 403, "Forbidden"

    @classmethod
    def of(cls, resource: str, group: str, name: str, why: str) -> Forbidden:
        """`pods "x" is forbidden: why`; `resource` is the plural."""
        qualified = f"{resource}.{group}" if group else resource
        words = f'{qualified} "{name}" is forbidden: {why}' if name else f"{qualified} is forbidden: {why}"
        return cls(words, details=_details(name, group, resource))


class NotFound(ApiError):
    code, reason = 404, "NotFound"

    @classmethod
    def of(cls, resource: str, group: str, name: str) -> NotFound:
        qualified = f"{resource}.{group}" if group else resource
        return cls(f'{qualified} "{name}" not found', details=_details(name, group, resource))

    @classmethod
    def page(cls) -> NotFound:
        """No such URL."""
        return cls("the server could not find the requested resource", details={})


class MethodNotAllowed(ApiError):
    code, reason = 405, "MethodNotAllowed"


class NotAcceptable(ApiError):
    code, reason = 406, "NotAcceptable"


class Conflict(ApiError):
    code, reason = 409, "Conflict"

    @classmethod
    def of(cls, resource: str, group: str, name: str, why: str) -> Conflict:
        qualified = f"{resource}.{group}" if group else resource
        words = f'Operation cannot be fulfilled on {qualified} "{name}": {why}'
        return cls(words, details=_details(name, group, resource))


class AlreadyExists(ApiError):
    code, reason = 409, "AlreadyExists"

    @classmethod
    def of(cls, resource: str, group: str, name: str) -> AlreadyExists:
        qualified = f"{resource}.{group}" if group else resource
        return cls(f'{qualified} "{name}" already exists', details=_details(name, group, resource))


class Gone(ApiError):
    code, reason = 410, "Gone"


class Expired(ApiError):
    code, reason = 410, "Expired"


class TooLarge(ApiError):
    code, reason = 413, "RequestEntityTooLarge"


class UnsupportedMediaType(ApiError):
    code, reason = 415, "UnsupportedMediaType"


class Invalid(ApiError):
    code, reason = 422, "Invalid"

    @classmethod
    def of(cls, group: str, kind: str, name: str, errors: Sequence[FieldError]) -> Invalid:
        """All problems of one object: `Pod "x" is invalid: spec.a: …` or, for several, `[a, b]`."""
        qualified = f"{kind}.{group}" if group else kind
        said = list(dict.fromkeys(map(str, errors)))  # causes may repeat, words do not
        words = said[0] if len(said) == 1 else f"[{', '.join(said)}]"
        details = _details(name, group, kind)
        details["causes"] = [{"reason": e.reason, "message": e.message, "field": e.path} for e in errors]
        return cls(f'{qualified} "{name}" is invalid: {words}', details=details)


class TooManyRequests(ApiError):
    code, reason = 429, "TooManyRequests"


class InternalError(ApiError):
    code, reason = 500, "InternalError"

    @classmethod
    def of(cls, why: str) -> InternalError:
        return cls(f"Internal error occurred: {why}", details={"causes": [{"message": why}]})


class Unavailable(ApiError):
    code, reason = 503, "ServiceUnavailable"


class Timeout(ApiError):
    code, reason = 504, "Timeout"


def _details(name: str, group: str, kind: str) -> Obj:
    pairs = (("name", name), ("group", group), ("kind", kind))
    return {key: value for key, value in pairs if value}


_BY_REASON: dict[str, type[ApiError]] = {cls.reason: cls for cls in ApiError.__subclasses__()}
_BY_CODE: dict[int, type[ApiError]] = {
    cls.code: cls for cls in _BY_REASON.values() if cls not in (AlreadyExists, Expired)
}


def from_status(status: Obj) -> ApiError:
    """The error that a Status of any Kubernetes API server stands for."""
    code = int(status.get("code") or 500)
    cls = _BY_REASON.get(status.get("reason", "")) or _BY_CODE.get(code, ApiError)
    return cls(status.get("message") or f"the server answered {code}", details=status.get("details"), code=code)


def causes(errors: Iterable[str]) -> list[Obj]:
    return [{"message": text} for text in errors]
