"""Files of results may hold anything: the report is written all the same, or says what is wrong; it never crashes."""

import tempfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from result_folders import write_comparison, write_profile, write_scan, write_sweep

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.reporting.collect import collect
from pruning_bootcamp.reporting.document import markdown
from pruning_bootcamp.reporting.findings import find
from pruning_bootcamp.reporting.sections import document
from pruning_bootcamp.reporting.sparsities import layer_sparsities

JUNK = st.sampled_from(
    [None, True, -1, 10**400, float("nan"), float("inf"), "", "<b>|", "x" * 500, [], {}, [None], [[]], {"a": None}]
) | st.recursive(st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3), max_leaves=4)
FILES = (
    *("l1_0/metrics.yaml", "l1_0/config.yaml", "zeros/metrics.yaml", "random/config.yaml", "l1_0/profile.yaml"),
    *("sensitivity/magnitude_layer/sensitivity.yaml", "sweep/half/sweep.yaml"),
)


def spoil(content: Any, places: list[int], junk: Any) -> Any:
    """`content` with junk in place of what the numbers lead to."""
    if places and isinstance(content, dict) and content:
        key = sorted(content, key=str)[places[0] % len(content)]
        return {**content, key: spoil(content[key], places[1:], junk)}
    if places and isinstance(content, list) and content:
        at = places[0] % len(content)
        return [*content[:at], spoil(content[at], places[1:], junk), *content[at + 1 :]]
    return junk


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_no_value_in_a_file_breaks_the_report(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_comparison(root)
        write_profile(root / "l1_0")
        write_scan(root)
        write_sweep(root)
        for _ in range(data.draw(st.integers(1, 3))):
            path = root / data.draw(st.sampled_from(FILES))
            places = data.draw(st.lists(st.integers(0, 20), max_size=4))
            path.write_text(yaml.safe_dump(spoil(yaml.safe_load(path.read_text()), places, data.draw(JUNK))))
        try:
            findings = find(collect(root))
            layers = [
                (f.experiment.title, entry)
                for f in findings.experiments
                for entry in layer_sparsities(f.experiment.settings)
            ]
            text = markdown(document(findings, layers, root, "report"))
        except BootcampError:
            return
        assert text.startswith("# ")
        assert "<b>" not in text
