"""What a study depends on is what its trials' stages depend on."""

from pruning_bootcamp.stages import structured, unstructured
from pruning_bootcamp.sweep.known import SECTIONS


def test_the_sections_are_those_of_the_stages() -> None:
    assert SECTIONS["prune-structured"] == structured.SECTIONS
    assert SECTIONS["prune-unstructured"] == unstructured.SECTIONS
    assert set(SECTIONS["train"]) < set(structured.SECTIONS)
