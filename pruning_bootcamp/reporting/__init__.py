"""Metrics -> words: what one run's commands print and write, and the report over a whole folder of results."""

from pruning_bootcamp.reporting.profile import (
    alternatives_text,
    analysis_text,
    backends_text,
    layers_text,
    profile_text,
)
from pruning_bootcamp.reporting.run import (
    comparison_rows,
    dead_table,
    dead_text,
    goal_line,
    markdown_table,
    penalty_text,
    refit_text,
    run_report,
    structured_table,
    with_verdict,
)
from pruning_bootcamp.reporting.would_pay import would_pay_text

__all__ = [
    "alternatives_text",
    "analysis_text",
    "backends_text",
    "comparison_rows",
    "dead_table",
    "dead_text",
    "goal_line",
    "layers_text",
    "markdown_table",
    "penalty_text",
    "profile_text",
    "refit_text",
    "run_report",
    "structured_table",
    "with_verdict",
    "would_pay_text",
]
