"""Data flows one way: a module imports only from a lower layer (the picture is in docs/architecture.md)."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "pruning_bootcamp"

# The longest prefix wins. One unit (a module or a folder) may import within itself.
LAYERS = {
    "errors": 0,
    "schema": 0,
    "registry": 1,
    "plugins": 1,
    "duration": 0,
    "shorthand": 0,
    "plain": 0,
    "results": 0,
    "memorised": 0,
    "logs": 0,
    "runtime": 0,
    "tools.alone": 0,
    "tools.modes": 0,
    "tools.data_settings": 1,
    "export_settings": 1,
    "flow.sections": 1,
    "sweep.settings": 1,
    "runs": 1,
    "locks": 1,
    "pages": 1,
    "tools.quiet": 1,
    "tools.tiny": 1,
    "tools.inputs": 1,
    "tools.programs": 1,
    "tools.zero_branches": 0,
    "tools.int8": 2,
    "config": 7,
    "tools.metrics": 1,
    "tools.latency": 1,
    "tools.datasets": 2,
    "models": 2,
    "checkpoints": 2,
    "tasks": 2,
    "pruning": 3,
    "pruning.solvers": 4,
    "pruning.weights": 5,
    "pruning.weights.scores": 4,
    "pruning.channels": 5,
    "backends": 4,
    "training": 6,
    "tools.pruning_utils": 6,
    "evaluation": 7,
    "sensitivity": 7,
    "heatmap": 7,
    "reporting": 7,
    "exporters": 7,
    "flow": 8,
    "sweep": 9,
    "preflight": 9,
    "listing": 9,
    "course": 9,
    "api": 10,
    "cli": 11,
    "__main__": 12,
    "__init__": 12,  # the package's front door, whose names are fetched when asked for
}
# Downward in meaning, within one layer of the table: said here one by one.
ALLOWED = {
    ("errors", "errors"),
    ("schema", "errors"),
    ("registry", "plugins"),
    ("plugins", "runs"),
    ("duration", "errors"),
    ("shorthand", "errors"),
    ("plain", "schema"),
    ("plain", "errors"),
    ("results", "plain"),
    ("results", "errors"),
    ("memorised", "results"),
    ("runtime", "errors"),
    ("runtime", "results"),
    ("runtime", "__init__"),  # the version
    ("runs", "errors"),
    ("locks", "runs"),
    ("preflight", "sweep"),
    ("checkpoints", "models"),
    ("heatmap", "reporting"),
    ("heatmap", "sensitivity"),
}
CONFIG_FROM = 8


def unit_of(module: str) -> str:
    """The key of LAYERS that a dotted module (without the package) belongs to."""
    parts = module.split(".")
    for end in range(len(parts), 0, -1):
        if ".".join(parts[:end]) in LAYERS:
            return ".".join(parts[:end])
    raise AssertionError(f"{module} has no layer: add it to LAYERS")


def modules() -> list[str]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        dotted = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found.append(dotted.removesuffix(".__init__") if dotted != "__init__" else dotted)
    return [name for name in found if name != "tools"]


def imports_of(module: str) -> set[str]:
    path = PACKAGE / Path(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import; write the whole path"
            if node.module == "pruning_bootcamp":
                names = {alias.name for alias in node.names}
                files = {name for name in names if any((PACKAGE / f"{name}{end}").exists() for end in ("", ".py"))}
                imported |= files | ({"__init__"} if names - files else set())
            elif node.module and node.module.startswith("pruning_bootcamp."):
                base = node.module.removeprefix("pruning_bootcamp.")
                for alias in node.names:
                    inner = f"{base}.{alias.name}"
                    is_module = (PACKAGE / Path(*inner.split("."))).with_suffix(".py").exists()
                    imported.add(inner if is_module else base)
        elif isinstance(node, ast.Import):
            imported |= {
                alias.name.removeprefix("pruning_bootcamp.")
                for alias in node.names
                if alias.name.startswith("pruning_bootcamp.")
            }
    return imported


def test_there_are_modules_to_check() -> None:
    assert len(modules()) > 20


@pytest.mark.parametrize("module", modules())
def test_imports_point_down(module: str) -> None:
    mine = unit_of(module)
    for imported in imports_of(module):
        theirs = unit_of(imported)
        if theirs == mine or (mine, theirs) in ALLOWED:
            continue
        same_folder = mine.split(".")[0] == theirs.split(".")[0] and LAYERS[theirs] <= LAYERS[mine]
        assert same_folder or LAYERS[theirs] < LAYERS[mine], f"{module} (layer {LAYERS[mine]}) imports {imported}"


@pytest.mark.parametrize("module", modules())
def test_only_the_upper_layers_see_the_config(module: str) -> None:
    mine = unit_of(module)
    if LAYERS[mine] < CONFIG_FROM and mine != "config":
        assert not any(unit_of(name) == "config" for name in imports_of(module)), f"{module} sees the config"
