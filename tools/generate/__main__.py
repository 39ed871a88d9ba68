"""`make generate`: rewrites the tables under src/havre from the sources of the releases that Havre follows."""

from __future__ import annotations

from tools.generate import flux, grpc, kinds, openapi, pack, protos, schemas, shapes
from tools.generate.sources import Sources


def main() -> None:
    sources = Sources.fetch()
    groups = kinds.stable_versions(sources)
    documents = {path: openapi.finish(doc) for path, doc in sources.openapi().items() if served(path, groups)}
    enumerations = schemas.enumerations(sources.openapi_go)
    schemas.enrich(documents, enumerations)
    by_kind = schemas.names_by_kind(documents)
    definitions = schemas.definitions(documents)
    pack.write_json("kinds", {"groups": groups, "kinds": kinds.kinds(sources, by_kind)})
    pack.write_json("schemas", {"kinds": by_kind, "definitions": definitions})
    descriptors = protos.descriptors(sources, list(definitions))
    messages = protos.messages(sources, descriptors)
    protos.check(messages, definitions)
    pack.write_json("messages", {"kinds": protos.kinds(descriptors, by_kind), "messages": messages})
    openapi.write(documents, openapi.swagger(sources.swagger(), documents, enumerations))
    shapes.main()
    grpc.main()
    flux.main()


def served(path: str, groups: dict[str, list[str]]) -> bool:
    """Whether a default server has this document: those of stable versions, of their groups, and of no group at all."""
    root, *rest = path.split("/")
    if root not in ("api", "apis") or not rest:
        return path != "logs"
    group, versions = ("", rest) if root == "api" else (rest[0], rest[1:])
    return group in groups and all(version in groups[group] for version in versions)


if __name__ == "__main__":
    main()
