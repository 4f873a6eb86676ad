"""The house: what imports what. Nothing imports a layer above it, and there is no circle."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "subsel"

LAYERS = [
    {"files", "memory", "pacing", "progress", "tables", "types"},
    {"validation"},
    {"plots"},
    {"kernels"},
    {"sources"},
    {"selection"},
    {"constraints"},
    {"objectives"},
    {"allowed", "optimizers", "testing"},
    {"assignment", "streaming"},
    {"distributed"},
    {"coreset"},
    {"defense", "estimators"},
    {"cli", "__main__"},
]
"""From the bottom up. `subsel/__init__.py` only says where names are, and is in none."""

RANK = {room: rank for rank, layer in enumerate(LAYERS) for room in layer}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        yield name.removesuffix(".__init__"), path


def imports(path):
    """Modules of the package that a file imports, wherever in it, but not for type checks only."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(node)
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and ast.unparse(test.test) == "TYPE_CHECKING"
        for node in ast.walk(test)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("subsel"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "subsel":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in NAMES else node.module


NAMES = dict(modules())
GRAPH = {name: set(imports(path)) - {name} for name, path in NAMES.items()}


def room(name):
    return name.split(".")[1] if "." in name else ""


def test_every_room_has_its_layer():
    assert {room(name) for name in NAMES if name != "subsel"} <= set(RANK)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "subsel"])
def test_nothing_imports_a_layer_above_it(name):
    for other in GRAPH[name] & set(NAMES):
        if room(other):
            assert RANK[room(other)] <= RANK[room(name)], f"{name} imports {other}"


def test_no_circle():
    done: set[str] = set()

    def visit(name, above):
        assert name not in above, " -> ".join([*above[above.index(name) :], name])
        if name not in done:
            for other in sorted(GRAPH[name] & set(NAMES)):
                if other != "subsel":
                    visit(other, [*above, name])
            done.add(name)

    for name in NAMES:
        if name != "subsel":
            visit(name, [])
