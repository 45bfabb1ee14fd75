"""export: deployment files, each checked against the network that it was made from."""

from pathlib import Path
from typing import Any

from pruning_bootcamp.config import Config
from pruning_bootcamp.exporters import EXPORTERS, export_model
from pruning_bootcamp.logs import LOGGER
from pruning_bootcamp.runs import write_yaml
from pruning_bootcamp.runtime import environment
from pruning_bootcamp.stages import common

FORMATS = {"both": ("onnx", "torchscript"), "all": tuple(EXPORTERS)}


def export(cfg: Config) -> dict[str, Any]:
    """One file a format in the checkpoint's folder; an unverified file is removed and GoalNotMet raised."""
    common.one_process("export")
    path = common.checkpoint_path(cfg.checkpoint)
    device = common.start(cfg)
    checkpoint = common.open_alone(path, cfg)
    folder = Path(cfg.save_dir) if cfg.save_dir else path.parent
    LOGGER.info("\n=== Exporting Model ===")
    reports = {}
    for name in FORMATS.get(cfg.export.format, (cfg.export.format,)):
        args = {"opset": cfg.export.opset} if name == "onnx" and cfg.export.opset is not None else {}
        report = export_model(
            checkpoint.model,
            common.example_input(checkpoint.recipe, 2),
            folder,
            format=name,
            verify=cfg.export.verify,
            batch_sizes=tuple(cfg.export.batch_sizes),
            tolerance=cfg.export.tolerance,
            args=args,
        )
        LOGGER.info("%s", report)
        reports[name] = {
            "file": str(report.path),
            "size_mb": round(report.size_mb, 6),
            "verified": report.verified,
            "max_difference": report.max_difference,
            "relative_difference": report.relative_difference,
            "batch_sizes": list(report.batch_sizes),
            "new_process": report.new_process,
        }
    metrics = {"checkpoint": str(path), "formats": reports, "environment": environment(device)}
    write_yaml(folder / "export_metrics.yaml", metrics)
    LOGGER.info("\nExport complete. Files saved to %s", folder)
    return metrics
