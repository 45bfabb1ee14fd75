"""Every shipped YAML is valid, opens with the command that runs it, and keeps to the schema's defaults where it can."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from pruning_bootcamp.config import Config, as_dict, load
from pruning_bootcamp.preflight import check
from pruning_bootcamp.schema import Choice, field_docs

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
    kinds = (type(getattr(Config(), part.name)) for part in dataclasses.fields(Config))
    sections = [Config, *(kind for kind in kinds if dataclasses.is_dataclass(kind) and kind is not Choice)]
    checked = 0
    for section in sections:
        documented = field_docs(section)
        for part in dataclasses.fields(section):
            if type(getattr(section(), part.name)) not in sections:
                assert documented.get(part.name), f"{section.__name__}.{part.name}"
                checked += 1
    assert checked > 100


def test_the_same_config_by_omegaconf_as_by_ours(tmp_path: Path) -> None:
    """The sections are OmegaConf's structured configs: loaded, merged and turned into objects by it, they are equal."""
    from omegaconf import OmegaConf

    changes = {
        "prune.score": {"name": "magnitude", "args": {"p": 2}},  # another name would keep the default's p in OmegaConf
        "train.lr": 0.3,
        "fine_tune.schedule": "cosine",
        "structured.round_to": 8,
    }
    ours = load(REPOSITORY / "cfgs" / "pipeline" / "digits.yaml", options=changes)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(as_dict(ours)))
    merged = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(path))
    assert OmegaConf.to_object(merged) == ours
    assert OmegaConf.to_object(OmegaConf.structured(Config)) == Config()
