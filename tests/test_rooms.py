"""Imports point downwards, from room to room, and never in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rooms import ENTRY, EVALUATION_TAKES_FROM_EXPORT, FILES_OF, MAY_IMPORT, TYPE_CIRCLES

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "genaf_sdk"


@dataclass(frozen=True)
class Edge:
    """One import: who, whom, and whether only for type checkers."""

    importer: str
    imported: str
    type_only: bool


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name; ``export/`` lies beside the package, behind a link."""
    found = {}
    for folder, prefix in ((PACKAGE, "genaf_sdk"), (ROOT / "export", "genaf_sdk.export")):
        for path in folder.rglob("*.py"):
            inside = path.relative_to(folder)
            if prefix == "genaf_sdk" and inside.parts[0] == "export":
                continue
            parts = [*prefix.split("."), *inside.with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def edges_of(name: str, path: Path, known: dict[str, Path]) -> Iterator[Edge]:
    """Yield what a module imports, inside functions and for type checkers included."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    type_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for part in node.body
        for inner in ast.walk(part)
    }
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        targets: list[str] = []
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            targets = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names]
        for target in targets:
            if target in known and target != name:
                yield Edge(name, target, id(node) in type_only)


KNOWN = modules()
EDGES = [edge for name, path in sorted(KNOWN.items()) for edge in edges_of(name, path, KNOWN)]


def room_of(module: str) -> str:
    inside = module.removeprefix("genaf_sdk").lstrip(".").split(".")
    if inside[:2] == ["export", "serve"]:
        return "export/serve"
    if inside[0] in MAY_IMPORT and inside[0] not in ("ground", "flows"):
        return inside[0]
    own = inside[0] or "__init__"
    return next(room for room, files in FILES_OF.items() if own in files)


def circles(edges: list[Edge]) -> list[frozenset[str]]:
    """Return the strongly connected components of more than one module (Tarjan)."""
    following: dict[str, set[str]] = {name: set() for name in KNOWN}
    for edge in edges:
        following[edge.importer].add(edge.imported)
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[frozenset[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in following[name]:
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            component = set()
            while name not in component:
                component.add(stack.pop())
            if len(component) > 1:
                found.append(frozenset(component))

    for name in sorted(KNOWN):
        if name not in index:
            visit(name)
    return found


def test_every_file_has_a_room() -> None:
    rooms = {name: room_of(name) for name in KNOWN}
    assert set(rooms.values()) == set(MAY_IMPORT)
    for room, files in FILES_OF.items():
        for file in files:
            assert (PACKAGE / f"{file}.py").is_file(), f"{room}: {file}"


def test_imports_point_to_rooms_below() -> None:
    wrong = [
        f"{edge.importer} ({room_of(edge.importer)}) imports {edge.imported} ({room_of(edge.imported)})"
        for edge in EDGES
        if room_of(edge.importer) != room_of(edge.imported)
        and room_of(edge.imported) not in MAY_IMPORT[room_of(edge.importer)]
    ]
    assert not wrong, "\n".join(wrong)


def test_the_order_itself_has_no_circle() -> None:
    done: set[str] = set()
    while len(done) < len(MAY_IMPORT):
        ready = {room for room, below in MAY_IMPORT.items() if room not in done and done.issuperset(below)}
        assert ready, set(MAY_IMPORT) - done
        done |= ready
    assert done == set(MAY_IMPORT)
    assert ENTRY in done


def test_evaluation_knows_of_the_export_only_how_to_run_a_model() -> None:
    taken = {
        edge.imported for edge in EDGES if room_of(edge.importer) == "evaluation" and room_of(edge.imported) == "export"
    }
    assert taken <= set(EVALUATION_TAKES_FROM_EXPORT)


def test_nothing_imports_in_a_circle_when_it_runs() -> None:
    assert circles([edge for edge in EDGES if not edge.type_only]) == []


def test_circles_of_types_are_known_with_their_reasons() -> None:
    assert set(circles(EDGES)) == set(TYPE_CIRCLES)


def test_a_circle_would_be_found() -> None:
    first, second, third = sorted(KNOWN)[:3]
    made = [Edge(first, second, False), Edge(second, third, True), Edge(third, first, False)]
    assert circles(made) == [frozenset({first, second, third})]
    assert circles(made[:2]) == []


def test_contributing_shows_the_same_table() -> None:
    lines = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    shown = {cells[1]: cells[2] for cells in rows if len(cells) == 3 and cells[1] in MAY_IMPORT}
    assert set(shown) == set(MAY_IMPORT)
