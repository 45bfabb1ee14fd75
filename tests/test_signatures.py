"""What goes from unit to unit is data with names and types: few functions take or return a bag of anything."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "pruning_bootcamp"
MOST_PERCENT = 2.0  # lower it when you can, never raise it


def is_bag(annotation: ast.expr | None) -> bool:
    """Whether dict[str, Any], dict[str, object], or a Mapping of the same, stands somewhere in the annotation."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value, mode="eval").body
    if annotation is None:
        return False
    return any(
        isinstance(node, ast.Subscript)
        and isinstance(node.value, ast.Name)
        and node.value.id in ("dict", "Mapping")
        and ast.unparse(node.slice) in ("(str, Any)", "(str, object)")
        for node in ast.walk(annotation)
    )


def takes_or_gives_a_bag(function: ast.FunctionDef) -> bool:
    every = function.args
    parameters = [*every.posonlyargs, *every.args, *every.kwonlyargs]
    parameters += [more for more in (every.vararg, every.kwarg) if more is not None]
    return any(is_bag(annotation) for annotation in (function.returns, *(p.annotation for p in parameters)))


def functions() -> list[tuple[str, ast.FunctionDef]]:
    return [
        (f"{path.relative_to(PACKAGE)}: {node.name}", node)
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    ]


def test_a_bag_is_told_from_data() -> None:
    text = """
def a(x: "Mapping[str, Any] | None"): ...
def b(**x: list[dict[str, object]]): ...
def c(x: dict[str, int]): ...
"""
    told = {one.name: takes_or_gives_a_bag(one) for one in ast.parse(text).body if isinstance(one, ast.FunctionDef)}
    assert told == {"a": True, "b": True, "c": False}


def test_few_signatures_hold_a_bag_of_anything() -> None:
    every = functions()
    bags = [name for name, function in every if takes_or_gives_a_bag(function)]
    assert len(every) > 1000
    share = 100 * len(bags) / len(every)
    assert share <= MOST_PERCENT, f"{share:.1f}%:\n" + "\n".join(bags)
