"""What a client accepts and what it gets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from havre.api.errors import NotAcceptable
from havre.control.apiserver.negotiate import JSON, PROTOBUF, YAML, negotiate

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
META = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"


@pytest.mark.parametrize(
    ("accept", "kind", "as_kind", "as_version"),
    [
        ("", JSON, "", ""),
        ("application/json", JSON, "", ""),
        ("*/*", JSON, "", ""),
        ("application/*", JSON, "", ""),
        ("text/html, */*;q=0.1", JSON, "", ""),
        ("application/yaml", YAML, "", ""),
        (PROTOBUF, PROTOBUF, "", ""),
        (f"{PROTOBUF},application/json", JSON, "", ""),  # our bytes are JSON: who takes them gets them
        ("application/json;q=0.1,application/yaml", YAML, "", ""),
        ("application/json;q=0,application/yaml;q=0.5", YAML, "", ""),
        (f"{TABLE},{TABLE.replace('v=v1', 'v=v1beta1')},application/json", JSON, "Table", "v1"),
        (f"{TABLE.replace('v=v1', 'v=v9')},application/json", JSON, "", ""),
        (f"{TABLE.replace('meta.k8s.io', 'x')},application/json", JSON, "", ""),
        (META, JSON, "PartialObjectMetadataList", "v1"),
        (f"{PROTOBUF};as=Table;v=v1;g=meta.k8s.io,{TABLE}", JSON, "Table", "v1"),
    ],
)
def test_the_best_clause_that_can_be_answered_wins(accept: str, kind: str, as_kind: str, as_version: str) -> None:
    media = negotiate(accept, protobuf=True)
    assert (media.type, media.as_kind, media.as_version) == (kind, as_kind, as_version)


@pytest.mark.parametrize("accept", ["text/html", PROTOBUF, "application/json;q=0", TABLE.replace("v=v1", "v=v9")])
def test_what_nobody_speaks_is_not_acceptable(accept: str) -> None:
    with pytest.raises(NotAcceptable, match="application/json, application/yaml"):
        negotiate(accept, protobuf=False)


def test_pretty_is_asked_by_a_parameter() -> None:
    assert negotiate("application/json;pretty=1", protobuf=False).pretty
    assert not negotiate("application/json", protobuf=False).pretty


@given(st.text(max_size=80), st.booleans())
def test_any_header_is_answered_or_refused(accept: str, protobuf: bool) -> None:
    try:
        media = negotiate(accept, protobuf=protobuf)
    except NotAcceptable:
        return
    assert media.type in (JSON, YAML, PROTOBUF)
