"""The command line: one thin function a command; torch is imported inside it, so that --help is quick."""

# each module registers its commands; --help lists them in this order
from pruning_bootcamp.cli import training, pruning, shipping, scanning, pipeline  # noqa: F401, I001
from pruning_bootcamp.cli import searching, reporting, course, names  # noqa: F401
from pruning_bootcamp.cli.base import app

__all__ = ["app"]
