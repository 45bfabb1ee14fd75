"""An ONNX file is made once of one network, and of every other one anew."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from pruning_bootcamp.tools import programs

EXAMPLE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two layers, and a number that no tensor holds."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.factor = factor
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.register_buffer("shift", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Means of the channels."""
        found: Tensor = self.norm(self.conv(x)).mean((2, 3)) * self.factor + self.shift
        return found


KINDS = ["a weight", "a statistic", "a number without a shape", "a number in the code", "the padding"]


def changed(what: str) -> nn.Module:
    """Another network than Net(), in one thing."""
    net = Net(2.0 if what == "a number in the code" else 1.0)
    with torch.no_grad():
        if what == "a weight":
            net.conv.weight[0, 0, 0, 0] += 1
        elif what == "a statistic":
            net.norm.running_mean[0] += 1  # type: ignore[index]
        elif what == "a number without a shape":
            net.shift += 1
        elif what == "the padding":
            net.conv.padding = (1, 1)
    return net.eval()


def digest(net: nn.Module, example: Tensor = EXAMPLE, opset: int = programs.OPSET) -> str:
    return programs._digest(programs.trace_program(net, example), opset)


def test_the_same_network_is_exported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    really = torch.onnx.export

    def counted(*args: object, **kwargs: object) -> object:
        calls.append(1)
        return really(*args, **kwargs)

    monkeypatch.setattr(torch.onnx, "export", counted)
    monkeypatch.setattr(programs, "_MADE", programs._Made())
    first = programs.onnx_content(Net().eval(), EXAMPLE)
    assert programs.onnx_content(Net().eval(), EXAMPLE + 1) == first
    assert len(calls) == 1
    other = changed("a weight")
    session = onnxruntime.InferenceSession(programs.onnx_content(other, EXAMPLE))
    assert len(calls) == 2
    with torch.inference_mode():
        found = torch.from_numpy(np.asarray(session.run(None, {"input": EXAMPLE.numpy()})[0]))
        torch.testing.assert_close(found, other(EXAMPLE))


def test_another_network_is_another_file() -> None:
    found = [digest(Net().eval()), *(digest(changed(kind)) for kind in KINDS), digest(Net().eval(), opset=19)]
    found.append(digest(Net().eval(), torch.zeros(2, 3, 9, 9)))
    assert len(set(found)) == len(found)
    assert digest(Net().eval(), torch.zeros(2, 3, 8, 8)) == found[0]


def test_as_many_are_kept_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "_KEPT_BYTES", 10)
    made, file = programs._Made(), programs.OnnxFile(b"12345", {})
    made.keep("a", file)
    made.keep("b", file)
    assert made.get("a") is file
    made.keep("c", file)
    assert made.get("b") is None  # a was asked for after it
    made.keep("large", programs.OnnxFile(b"0" * 11, {}))
    assert made.get("large") is None
    assert made.get("a") is made.get("c") is file
