"""What a pruning in Python is described with: its stages and its calibration data."""

import pytest

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.pruning.pipeline_stages import PruningStage
from pruning_bootcamp.pruning.weights.settings import CalibrationConfig


def test_the_stages_of_the_case_study_and_failed() -> None:
    status = {
        stage.display_name: "Active" if stage.is_active else "Terminal" if stage.is_terminal else "Waiting"
        for stage in PruningStage
    }
    working = ("Calibrating", "Computing Importance", "Pruning", "Fine-tuning", "Evaluating", "Exporting")
    expected = {"Idle": "Waiting", **dict.fromkeys(working, "Active"), "Complete": "Terminal", "Failed": "Terminal"}
    assert list(status.items()) == list(expected.items())


def test_calibration_as_in_the_case_study() -> None:
    config = CalibrationConfig(num_samples=128, sequence_length=2048, batch_size=1, dataset="c4")
    config.validate()
    assert config == CalibrationConfig()
    assert CalibrationConfig(num_samples=10, batch_size=4).num_batches == 3


@pytest.mark.parametrize(
    ("config", "messages"),
    [
        (CalibrationConfig(num_samples=0, batch_size=-1), ["num_samples: 0 is not a whole", "batch_size: -1"]),
        (CalibrationConfig(num_samples=4, batch_size=8), ["batch_size: 8 is more than all 4 samples"]),
        (CalibrationConfig(sequence_length=1.5), ["sequence_length: 1.5 is not a whole number"]),  # type: ignore[arg-type]
        (CalibrationConfig(dataset=" "), ["dataset: ' ' is not a name"]),
    ],
)
def test_impossible_calibration_is_refused(config: CalibrationConfig, messages: list[str]) -> None:
    with pytest.raises(BootcampError) as caught:
        config.validate()
    assert len(caught.value.problems) == len(messages)
    for message in messages:
        assert message in str(caught.value)
