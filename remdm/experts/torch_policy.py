"""Craftax experts in torch: the policies of `remdm.experts.nets`, for machines without JAX.

They read the folders that `remdm.experts.checkpoint.save_expert` writes and answer as flax does, up
to rounding. Nothing here imports JAX, so the facts of a checkpoint are read without that module.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from remdm.data.plain_json import one_line
from remdm.experts.checkpoint import expert_facts
from remdm.registry import unknown_name_message
from remdm.training.checkpoint import CheckpointError, load_weights

ALGORITHMS = ("ppo", "ppo_rnn", "ppo_rnd")
POLICY_FILE = "policy.safetensors"

_DENSE, _GRU = "params/Dense_", "params/ScannedRNN_0/GRUCell_1/"
_LOGITS = 3  # number of the layer that makes the logits, in all of them


class TorchExpert(nn.Module):
    """The policy of one algorithm.

    Its layers are numbered as in flax: `dense[i]` is `Dense_i`. A new one has whatever weights
    torch gives it; `load` is how to get one that knows something.

    Attributes:
        algorithm: One of `ALGORITHMS`.
        flat_size: Numbers in an observation of the game itself, D.
        num_actions: Size of the action set, A.
        width: Channels L everywhere.
        facts: What its checkpoint says of it; empty in a new one.
    """

    def __init__(self, algorithm: str, flat_size: int, num_actions: int, width: int) -> None:
        """Args: see the attributes of the class.

        Raises:
            ValueError: If the algorithm is unknown.
        """
        super().__init__()
        if algorithm not in ALGORITHMS:
            raise ValueError(unknown_name_message("algorithm", algorithm, ALGORITHMS))
        self.algorithm, self.flat_size = algorithm, flat_size
        self.num_actions, self.width = num_actions, width
        self.facts: dict[str, object] = {}
        hidden = (width, width)
        if algorithm == "ppo_rnn":
            sizes = [(flat_size, width)]
            for out in (num_actions, 1):
                sizes += [hidden, hidden, (width, out)]
        else:
            sizes = []
            for out in (num_actions, 1, 1) if algorithm == "ppo_rnd" else (num_actions, 1):
                sizes += [(flat_size, width), hidden, hidden, (width, out)]
        self.dense = nn.ModuleList(nn.Linear(*size) for size in sizes)
        self.cell = nn.GRUCell(width, width) if algorithm == "ppo_rnn" else None

    @classmethod
    def load(cls, folder: Path) -> "TorchExpert":
        """Read an expert, to be used and not to be trained on.

        Args:
            folder: From `remdm.experts.checkpoint.save_expert`.

        Raises:
            CheckpointError: If there is none, it is damaged, or of an algorithm nobody knows.
        """
        facts = expert_facts(folder)
        algorithm, width = facts["algorithm"], facts["width"]
        if algorithm not in ALGORITHMS:
            word = one_line(algorithm, 80)
            raise CheckpointError(
                f"{folder}: " + unknown_name_message("algorithm", word, ALGORITHMS)
            )
        path = folder / POLICY_FILE
        found = load_weights(path)
        first, logits = (found.get(f"{_DENSE}{i}/kernel") for i in (0, _LOGITS))
        if first is None or logits is None or first.ndim != 2 or logits.ndim != 2:
            raise CheckpointError(
                f"{path} must hold the parameters of a {algorithm} expert, as {_DENSE}0/kernel; "
                f"it holds {_few(found) or 'none'}. Write it with save_expert."
            )
        # Before a net of that width is made, which may be a lie.
        if first.shape[1] != width:
            raise CheckpointError(
                f"{path} is of another expert: {_DENSE}0/kernel is {tuple(first.shape)} in the "
                f"file and {(first.shape[0], width)} here; its algorithm and width must be those "
                "of state.json"
            )
        expert = cls(algorithm, first.shape[0], logits.shape[1], width)
        expert.load_state_dict(_ported(expert, found, path))
        expert.facts = facts
        return expert.eval().requires_grad_(False)

    @property
    def layers(self) -> list[nn.Linear]:
        """`dense`, as what they are."""
        return [cast(nn.Linear, layer) for layer in self.dense]

    def memory(self, rows: int) -> Tensor:
        """What it remembers of `rows` lives that begin, float32 [rows, L]."""
        return self.layers[0].weight.new_zeros(rows, self.width)

    def forward(
        self, hidden: Tensor, flat: Tensor, begins: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A stretch of T >= 1 steps.

        Args:
            hidden: float32 [B, L].
            flat: Observations float32 [T, B, D].
            begins: bool [T, B]: the observation is the first of a life; nothing that was before
                is remembered then.

        Returns:
            The memory after the stretch [B, L], as it came where the policy has none; logits
            [T, B, A]; and values [T, B], [T, B, 2] for `ppo_rnd`: of the game, and of novelty.
        """
        if self.cell is None:
            values = [
                self._tower(at, flat, torch.tanh)[..., 0] for at in range(4, len(self.dense), 4)
            ]
            logits = self._tower(0, flat, torch.tanh)
            return hidden, logits, values[0] if len(values) == 1 else torch.stack(values, -1)
        remembered = []
        for seen, begin in zip(self.layers[0](flat).relu(), begins, strict=True):
            hidden = self.cell(seen, hidden.masked_fill(begin[:, None], 0.0))
            remembered.append(hidden)
        out = torch.stack(remembered)
        actor, critic = (self._tower(at, out, torch.relu) for at in (1, 4))
        return hidden, actor, critic[..., 0]

    def _tower(self, first: int, x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
        """The layers from `first` to the next one that makes an output."""
        layers = 3 if self.cell is None else 2
        for layer in self.layers[first : first + layers]:
            x = activation(layer(x))
        out: Tensor = self.layers[first + layers](x)
        return out


def _few(names: Iterable[str]) -> str:
    """The first names of a file, which may be anything, in few words."""
    return ", ".join(one_line(name, 80) for name in sorted(names)[:3])


def _ported(expert: TorchExpert, found: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The weights of flax under the names and in the layout of torch.

    torch.nn.GRUCell stacks the gates r, z, n and has a second bias, on what is remembered. flax has
    that one for n alone, so it is zero for r and z (craftax_spec 2.1).

    Raises:
        CheckpointError: If some are missing, too many, or of another shape; says which.
    """
    width = expert.width
    shapes: dict[str, tuple[int, ...]] = {}
    for number, layer in enumerate(expert.layers):
        out, into = layer.weight.shape
        shapes |= {f"{_DENSE}{number}/kernel": (into, out), f"{_DENSE}{number}/bias": (out,)}
    if expert.cell is not None:
        shapes |= {f"{_GRU}{part}{gate}/kernel": (width, width) for part in "ih" for gate in "rzn"}
        shapes |= {f"{_GRU}{name}/bias": (width,) for name in ("ir", "iz", "in", "hn")}
    missing, extra = sorted(shapes.keys() - found.keys()), sorted(found.keys() - shapes.keys())
    differ = [
        f"{name} is {tuple(found[name].shape)} in the file and {shape} here"
        for name, shape in shapes.items()
        if name in found and tuple(found[name].shape) != shape
    ]
    if missing or extra or differ:
        raise CheckpointError(
            f"{path} is of another expert: missing {missing[:3]}, unknown {_few(extra)}, shapes "
            f"{differ[:3]}; its algorithm and width must be those of state.json"
        )
    weights = {}
    for number in range(len(expert.dense)):
        weights[f"dense.{number}.weight"] = found[f"{_DENSE}{number}/kernel"].T
        weights[f"dense.{number}.bias"] = found[f"{_DENSE}{number}/bias"]
    if expert.cell is not None:
        for part in "ih":
            gates = [found[f"{_GRU}{part}{gate}/kernel"].T for gate in "rzn"]
            weights[f"cell.weight_{part}h"] = torch.cat(gates)
        weights["cell.bias_ih"] = torch.cat([found[f"{_GRU}i{gate}/bias"] for gate in "rzn"])
        weights["cell.bias_hh"] = torch.cat([torch.zeros(2 * width), found[f"{_GRU}hn/bias"]])
    return weights
