"""One YAML is one run: the schema of its settings (fields) and how a file becomes a Config (loading)."""

from pruning_bootcamp.config.fields import Config, SweepConfig
from pruning_bootcamp.config.loading import as_dict, fingerprint, load, with_values
from pruning_bootcamp.schema import Choice

__all__ = ["Choice", "Config", "SweepConfig", "as_dict", "fingerprint", "load", "with_values"]
