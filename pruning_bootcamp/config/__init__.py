"""One YAML is one run: the schema of its settings (fields) and how a file becomes a Config (loading)."""

from pruning_bootcamp.config.fields import Config
from pruning_bootcamp.config.loading import as_dict, fingerprint, load, with_values
from pruning_bootcamp.schema import Choice

__all__ = ["Choice", "Config", "as_dict", "fingerprint", "load", "with_values"]
