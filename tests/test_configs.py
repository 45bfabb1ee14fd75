"""Every shipped YAML is valid, opens with the command that runs it, and keeps to the schema's defaults where it can."""

from pathlib import Path

import pytest

from pruning_bootcamp.config import Config, load
from pruning_bootcamp.preflight import check

REPOSITORY = Path(__file__).resolve().parent.parent
CONFIGS = sorted((REPOSITORY / "cfgs").rglob("*.yaml"))


def test_there_are_configs() -> None:
    assert len(CONFIGS) >= 6


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_is_valid_and_says_how_to_run_it(path: Path, tmp_path: Path) -> None:
    first, *_ = path.read_text().splitlines()
    assert first.startswith(("# pruning-bootcamp ", "# ./scripts/"))
    assert str(path.relative_to(REPOSITORY)) in first or first.startswith("# ./scripts/")
    cfg = load(path)
    # the names and settings, not the data: that is not on every machine
    cfg.data.name, cfg.data.args = "digits", {}
    cfg.save_dir = str(tmp_path)
    check(cfg, "validate", str(path))


def test_every_setting_has_a_line_of_documentation() -> None:
    import ast
    import dataclasses

    import pruning_bootcamp.config.fields as fields

    sources = [path.read_text() for path in Path(fields.__file__).parent.glob("*.py")]
    checked = 0
    for node in (node for source in sources for node in ast.parse(source).body):
        if isinstance(node, ast.ClassDef) and node.name.endswith("Config"):
            for field, following in zip(node.body, [*node.body[1:], None], strict=True):
                if isinstance(field, ast.AnnAssign) and not ast.unparse(field.annotation).endswith("Config"):
                    documented = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
                    if ast.unparse(field.annotation) != "Choice" or node.name != "Config":
                        assert documented or node.name == "Config", f"{node.name}.{ast.unparse(field.target)}"
                    checked += 1
    assert checked > 50
    assert dataclasses.is_dataclass(Config)
