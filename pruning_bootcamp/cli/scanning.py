"""sensitivity."""

from typing import Annotated

import typer

from pruning_bootcamp.cli.base import app, common_options, examples, load_checked
from pruning_bootcamp.cli.options import Checkpoint, ConfigFile, Debug, Device, Overrides, Resume, SaveDir, Seed


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
        str | None, typer.Option("--sparsities", help="In (0, 1), with commas (0.5,0.7,0.8,0.9,0.95,0.98).")
    ] = None,
    by: Annotated[str | None, typer.Option("--by", help="What is pruned alone: layer or block.")] = None,
    resume: Resume = None,
    save_dir: SaveDir = None,
    device: Device = None,
    seed: Seed = None,
    debug: Debug = False,
) -> None:
    """Validation accuracy with one layer or block pruned at a time, at each sparsity, as a heat map."""
    options = {
        "sensitivity.sparsities": None if sparsities is None else [part.strip() for part in sparsities.split(",")],
        "sensitivity.by": by,
    }
    options = common_options(save_dir, device, seed, checkpoint=checkpoint, **options)
    cfg = load_checked("sensitivity", config, overrides, options)
    from pruning_bootcamp.flow.commands import sensitivity as run

    run(cfg, resume=resume)
