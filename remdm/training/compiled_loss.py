"""The forward pass of training through `torch.compile`; uncompiled where that fails.

All draws stay as they are: masks come from generators, which the compiler leaves alone, and dropout
is told to draw as it does uncompiled. So losses and gradients differ by rounding only. Averages,
checkpoints and planning use the agent itself, which this only wraps.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from remdm.data.batch import Batch

Loss = tuple[Tensor, dict[str, Tensor]]


class CompiledLoss(nn.Module):
    """Calls an agent through `torch.compile`.

    The first batch is a trial: forward and backward are compiled with it and thrown away. Whatever
    goes wrong in the trial costs a warning and the speed, never the run.

    Attributes:
        agent: What is called. Its parameters are this module's own.
        failure: Why it is called uncompiled, else None.
    """

    def __init__(self, agent: nn.Module) -> None:
        """Args:
        agent: Maps a batch and a generator to a loss and metrics; nothing is compiled yet.
        """
        super().__init__()
        self.agent = agent
        self.failure: str | None = None
        self._compiled: Callable[..., Loss] | None = None

    def forward(self, batch: Batch, generator: torch.Generator) -> Loss:
        """The agent's loss and metrics.

        Args:
            batch: On the agent's device.
            generator: Draws the masks.

        Warns:
            RuntimeWarning: Once, when compiling fails; training goes on uncompiled.
        """
        if self._compiled is None and self.failure is None:
            self.failure = self._try(batch, generator)
            if self.failure is not None:
                return self._uncompiled(batch, generator)
        loss: Loss = (self._compiled or self.agent)(batch, generator)
        return loss

    def _try(self, batch: Batch, generator: torch.Generator) -> str | None:
        """Compile with one batch; returns why that failed. All draws are as they were before."""
        buffers = {name: value.clone() for name, value in self.agent.named_buffers()}
        devices = sorted({p.device.index for p in self.agent.parameters() if p.is_cuda})
        chances = torch.Generator(generator.device)
        chances.set_state(generator.get_state())
        try:
            with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what the compiler thinks of its own modules
                # Otherwise dropout in fused code would draw other numbers.
                compiled = torch.compile(self.agent.forward, options={"fallback_random": True})
                loss, _ = compiled(batch, chances)
                wanted = [p for p in self.agent.parameters() if p.requires_grad]
                torch.autograd.grad(loss, wanted, allow_unused=True)
        except Exception as error:
            said = " ".join(str(error).split("\n")[:2]).strip()
            return f"{type(error).__name__}: {said}"
        finally:
            with torch.no_grad():
                for name, value in self.agent.named_buffers():
                    value.copy_(buffers[name])
        self._compiled = compiled
        return None

    def _uncompiled(self, batch: Batch, generator: torch.Generator) -> Loss:
        """The first call after a trial that failed."""
        try:
            loss: Loss = self.agent(batch, generator)
        except BaseException:  # what is wrong is the call itself
            self.failure = None
            raise
        warnings.warn(
            f"torch.compile failed, so training runs uncompiled: {self.failure}. Set "
            "Experiment.compile_model = False to be rid of this warning",
            RuntimeWarning,
            stacklevel=2,
        )
        return loss
