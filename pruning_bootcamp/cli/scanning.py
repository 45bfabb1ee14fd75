"""sensitivity."""

from typing import Annotated

from pruning_bootcamp.cli.base import app, examples, load_checked
from pruning_bootcamp.cli.options import (
    Checkpoint,
    ConfigFile,
    Debug,
    Device,
    DryRun,
    Overrides,
    Resume,
    SaveDir,
    Seed,
    given,
    setting,
)


@app.command(
    epilog=examples(
        "sensitivity -c cfgs/digits.yaml --checkpoint results/baseline/best_model.pth --sparsities 0.5,0.7,0.9",
        "sensitivity -c cfgs/cifar10_resnet20.yaml --checkpoint resnet20.th --by block data.root=data/cifar10",
    )
)
def sensitivity(
    overrides: Overrides = None,
    config: ConfigFile = None,
    checkpoint: Checkpoint = None,
    sparsities: Annotated[
        str | None, setting("sensitivity.sparsities", "--sparsities", more="With commas: 0.5,0.7,0.9.")
    ] = None,
    by: Annotated[str | None, setting("sensitivity.by", "--by")] = None,
    dry_run: DryRun = False,
    resume: Resume = None,
    save_dir: SaveDir = None,
    device: Device = None,
    seed: Seed = None,
    debug: Debug = False,
) -> None:
    """Validation accuracy with one layer or block pruned at a time, at each sparsity, as a heat map."""
    options = given(sensitivity, locals())
    if sparsities is not None:
        options["sensitivity.sparsities"] = [part.strip() for part in sparsities.split(",")]
    cfg = load_checked("sensitivity", config, overrides, options)
    from pruning_bootcamp.flow.commands import sensitivity as run

    run(cfg, resume=resume, dry_run=dry_run)
