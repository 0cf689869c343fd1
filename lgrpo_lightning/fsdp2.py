"""The strategy ``fsdp2``: weights, gradients and optimizer state split over all processes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch.optim import Optimizer

from lgrpo_lightning.policy.sharding import gathered, placed_like


class FSDP2Strategy(ModelParallelStrategy):
    """Lightning's ModelParallelStrategy, sharding over every process of the run.

    Differs from it in that all processes share the data and none the layers, and in checkpoints:
    they are single files in the form of one process, so that any strategy and any number of
    processes can go on from them. The first process gathers them in its CPU memory.

    Args:
        save_distributed_checkpoint: write a folder with a part per process instead. It takes no
            memory for the whole model, and only this strategy can read it.
    """

    def __init__(self, save_distributed_checkpoint: bool = False) -> None:
        super().__init__(
            tensor_parallel_size=1, save_distributed_checkpoint=save_distributed_checkpoint
        )

    def setup_environment(self) -> None:
        """Take all processes for the data.

        Raises:
            ValueError: for a precision that would need a gradient scaler.
        """
        if self.precision_plugin.precision == "16-mixed":
            raise ValueError(
                "trainer.precision 16-mixed scales gradients, which the strategy fsdp2 cannot; "
                "use bf16-mixed, or the strategy ddp"
            )
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The module's state: whole on the first process, or every process's part. A collective."""
        if self._save_distributed_checkpoint:
            return super().lightning_module_state_dict()
        assert self.lightning_module is not None
        return self._on_first(self.lightning_module.state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimizer's state, likewise. A collective."""
        if self._save_distributed_checkpoint:
            return super().optimizer_state(optimizer)
        state = getattr(optimizer, "optimizer", optimizer).state_dict()
        whole = {number: self._on_first(values) for number, values in state["state"].items()}
        return {**state, "state": whole} if self.is_global_zero else {}

    def _on_first(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Whole tensors on the CPU; other processes only take part in gathering them."""
        whole = {}
        for name, value in state.items():
            found = gathered(value)
            if self.is_global_zero:
                whole[name] = found
        return whole

    def load_checkpoint(
        self, checkpoint_path: _PATH, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load a file of any strategy, or a folder of this one."""
        path = Path(self.broadcast(checkpoint_path))
        if path.is_dir():
            return super().load_checkpoint(path, weights_only)
        checkpoint: dict[str, Any] = torch.load(
            path, map_location="cpu", weights_only=weights_only, mmap=True
        )
        assert self.lightning_module is not None
        self.lightning_module.load_state_dict(checkpoint["state_dict"])
        states = checkpoint.get("optimizer_states", [])
        for optimizer, state in zip(self.optimizers, states, strict=bool(self.optimizers)):
            optimizer.load_state_dict(_split(state, optimizer))
        return checkpoint


def _split(state: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """An optimizer's whole state with what has its parameter's shape split like the parameter."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {
        **state,
        "state": {
            number: {name: placed_like(parameters[number], value) for name, value in values.items()}
            for number, values in state["state"].items()
        },
    }


StrategyRegistry.register(
    "fsdp2", FSDP2Strategy, description="PyTorch's FSDP2 over all processes of the run"
)
