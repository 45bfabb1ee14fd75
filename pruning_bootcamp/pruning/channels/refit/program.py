"""A network's forward pass as a list of operations, which can stop at any of them and go on later."""

import operator
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.node import Node, map_arg
from torch.utils._pytree import tree_flatten, tree_unflatten

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.tools.modes import evaluation_mode

Evaluate = Callable[[Node, tuple[Any, ...], dict[str, Any]], Any]


@dataclass(frozen=True)
class State:
    """A forward pass that has stopped before the operation `at`: the values that later ones read."""

    at: int
    values: dict[int, Any]

    @property
    def size(self) -> int:
        """Bytes of its tensors."""
        return sum(value.nbytes for value in self.values.values() if isinstance(value, Tensor))


class Program:
    """The operations of a network in eval mode, on batches of the size of `example`.

    Weights are read from the network when an operation runs: what is changed in it counts from then on.
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        """BootcampError where torch.export can't follow the network."""
        self.model, self.batch_size = model, len(example)
        try:
            with evaluation_mode(model), torch.no_grad():
                exported = torch.export.export(model, (example,), strict=False)
                if any(_overwrites(node) for node in exported.graph.nodes):
                    exported = exported.run_decompositions({})
        except Exception as error:  # whatever the network's code or torch's own raises while it is followed
            first = str(error).strip().partition("\n")[0]
            raise BootcampError(f"its operations can't be listed ({type(error).__name__}: {first})") from error
        signature = exported.graph_signature
        self.nodes: list[Node] = list(exported.graph.nodes)
        self.index = {node: number for number, node in enumerate(self.nodes)}
        named = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        self.tensors = {self.index[node]: named[node.name] for node in self.nodes if node.name in named}
        """operation -> the parameter or buffer that it stands for"""
        constants = dict(signature.inputs_to_lifted_tensor_constants)
        self._constants = {
            self.index[node]: exported.constants[constants[node.name]] for node in self.nodes if node.name in constants
        }
        inputs = [self.index[node] for node in self.nodes if node.name in signature.user_inputs]
        self._input, self._graph = inputs[0], exported.graph_module
        self._output_structure = exported.call_spec.out_spec
        self.last_use = list(range(len(self.nodes)))
        for number, node in enumerate(self.nodes):
            for used in node.all_input_nodes:
                self.last_use[self.index[used]] = number
        self._dying: dict[int, list[int]] = {}
        for number, last in enumerate(self.last_use):
            self._dying.setdefault(last, []).append(number)

    def __len__(self) -> int:
        return len(self.nodes)

    def start(self, images: Tensor) -> State:
        """The network before its first operation, given these images."""
        return State(0, {self._input: images})

    def run(
        self,
        state: State,
        stop: int,
        watch: Collection[int] = (),
        instead: dict[str, Tensor] | None = None,
        by: Evaluate | None = None,
    ) -> tuple[State, dict[int, Any]]:
        """Run the operations from where the state stands to before `stop`; the state is left as it is.

        Returns the new state, and the values of the operations in `watch`. `instead`: parameters by name that count
        in place of the network's own. `by(node, args, kwargs)` says what an operation gives; left out, it is run.
        """
        values = dict(state.values)
        seen = {number: values[number] for number in watch if number in values}
        for number in range(state.at, stop):
            node = self.nodes[number]
            if node.op == "placeholder":
                if number != self._input and number in self._constants:
                    values[number] = self._constants[number]
            elif node.op == "get_attr":
                values[number] = getattr(self._graph, str(node.target))
            elif node.op == "call_function":
                args, kwargs = map_arg((node.args, node.kwargs), lambda used: self._value(used, values, instead))
                values[number] = node.target(*args, **kwargs) if by is None else by(node, args, kwargs)  # type: ignore[operator]
            if number in watch:
                seen[number] = values[number]
            for dead in self._dying.get(number, ()):
                values.pop(dead, None)
        return State(stop, values), seen

    def _value(self, node: Node, values: dict[int, Any], instead: dict[str, Tensor] | None) -> Any:
        number = self.index[node]
        name = self.tensors.get(number)
        if name is None:
            return values[number]
        if instead is not None and name in instead:
            return instead[name]
        path, _, attribute = name.rpartition(".")
        return getattr(self.model.get_submodule(path), attribute)

    def outputs(self, state: State, instead: dict[str, Tensor] | None = None) -> Any:
        """What the network gives, as its own code does."""
        end = len(self.nodes) - 1
        output = self.nodes[end]
        wanted = {self.index[node] for node in output.all_input_nodes}
        _, seen = self.run(state, end, wanted, instead)
        found = map_arg(output.args[0], lambda node: seen[self.index[node]])
        return tree_unflatten(tree_flatten(found)[0], self._output_structure)

    def live_bytes(self, at: int) -> int:
        """What a state before the operation `at` holds."""
        return sum(
            _bytes(node)
            for number, node in enumerate(self.nodes[:at])
            if number not in self.tensors and number not in self._constants and self.last_use[number] >= at
        )

    def users(self, number: int) -> list[int]:
        """The operations that read what this one gives."""
        return [self.index[user] for user in self.nodes[number].users]

    def shape(self, number: int) -> tuple[int, ...] | None:
        """The shape of what the operation gave in the traced pass; None: it is no tensor."""
        value = self.nodes[number].meta.get("val")
        return tuple(int(length) for length in value.shape) if isinstance(value, Tensor) else None

    def same_operations(self, other: "Program") -> bool:
        """Whether both run the same operations in the same order, whatever their sizes."""
        return len(self) == len(other) and all(
            one.op == another.op
            and (one.op == "placeholder" or str(one.target) == str(another.target))
            and [self.index[node] for node in one.all_input_nodes]
            == [other.index[node] for node in another.all_input_nodes]
            for one, another in zip(self.nodes, other.nodes, strict=True)
        )


def _bytes(node: Node) -> int:
    values = node.meta.get("val")
    return sum(value.nbytes for value in _tensors(values))


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)


def _overwrites(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return node.target is not operator.getitem and schema is not None and bool(schema.is_mutable)
