"""Where in a network numbers stop being finite: watched by hooks, only after it has happened."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Fault:
    """The first number that is not finite, in the order in which layers run.

    Attributes:
        layer: Name of the layer within the network, and its type.
        place: "input", "output", or the name of one of the layer's own weights. It is the input
            where something between two layers made the number.
    """

    layer: str
    place: str

    def __str__(self) -> str:
        return f"the {self.place} of layer {self.layer}"


def first_fault(net: nn.Module, call: Callable[[], Any]) -> Fault | None:
    """Run a call of a network and find the first layer that meets a NaN or an infinity.

    Args:
        net: The network; all its layers are watched.
        call: Runs it, by calling `net` itself; an exception of its own is taken for its end.

    Returns:
        The first fault; None if all that layers take, hold and give is finite.
    """
    faults: list[Fault] = []
    with _watched(net, faults), contextlib.suppress(ArithmeticError, RuntimeError, ValueError):
        call()
    return faults[0] if faults else None


@contextlib.contextmanager
def _watched(net: nn.Module, faults: list[Fault]) -> Iterator[None]:
    """Note the faults of all layers in the order in which they occur."""
    handles = []
    for name, layer in net.named_modules():
        label = f"{name or 'net'} ({type(layer).__name__})"

        def before(layer: nn.Module, inputs: Any, label: str = label) -> None:
            if not _finite(inputs):
                faults.append(Fault(label, "input"))
            for weight, values in layer.named_parameters(recurse=False):
                if not _finite(values):
                    faults.append(Fault(label, f"weight {weight}"))

        def after(layer: nn.Module, inputs: Any, output: Any, label: str = label) -> None:
            if not _finite(output):
                faults.append(Fault(label, "output"))

        handles.append(layer.register_forward_pre_hook(before))
        handles.append(layer.register_forward_hook(after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _finite(values: Any) -> bool:
    """Whether all floating tensors in `values`, however nested, are finite."""
    if isinstance(values, Tensor):
        return not values.is_floating_point() or bool(torch.isfinite(values).all())
    if isinstance(values, dict):
        return _finite(tuple(values.values()))
    if isinstance(values, (list, tuple)):
        return all(_finite(value) for value in values)
    return True
