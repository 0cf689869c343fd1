"""Decoding steps as CUDA graphs: recorded once, then started by a single call.

A step of a language model is a thousand small kernels, and starting them one by one takes the CPU
several times as long as the GPU needs to run them. A graph reads and writes fixed addresses, so one
belongs to its slots and to the policy's weights where they lie; weights that an optimizer updates
in place are the updated ones also to a graph.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from lgrpo_lightning.rollout.slots import Slots


class CannotCaptureError(RuntimeError):
    """A step of this model waits for the CPU, so no graph can stand for it."""


class StepGraphs:
    """The steps of some slots, each captured when it is first needed.

    Args:
        policy: the model; not kept alive by this.
        slots: on a CUDA device.

    Attributes:
        num_bytes: memory the captured steps hold for what they compute in between.
    """

    def __init__(self, policy: nn.Module, slots: Slots) -> None:
        self.policy = weakref.ref(policy)
        self.slots = slots
        self.num_bytes = 0
        device = slots.done.device
        self._graphs: dict[tuple[int, int], torch.cuda.CUDAGraph] = {}
        # One pool for all: they run one after the other, and keep nothing but the slots' state.
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self, count: int, span: int) -> None:
        """Advance the first ``count`` slots by a token, see :meth:`Slots.step`.

        Raises:
            CannotCaptureError: if the model's step waits for the CPU.
        """
        graph = self._graphs.get((count, span))
        if graph is None:
            graph = self._graphs[count, span] = self._capture(count, span)
        graph.replay()

    def _capture(self, count: int, span: int) -> torch.cuda.CUDAGraph:
        policy = self.policy()
        assert policy is not None, "whoever calls this samples from the policy"
        device = self.slots.done.device
        # Libraries allocate at their first call, which cannot be captured. With all rows ended, a
        # step changes nothing.
        done = self.slots.done.clone()
        self.slots.done.fill_(True)
        self._stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self._stream), _no_waiting():
            self.slots.step(policy, count, span)
        torch.cuda.current_stream(device).wait_stream(self._stream)
        self.slots.done.copy_(done)
        graph = torch.cuda.CUDAGraph()
        torch.cuda.empty_cache()  # as torch does before a capture, but the figure is to be without
        before = torch.cuda.memory_reserved(device)
        # Other threads (data loading, NCCL's watchdog) may go on using the device meanwhile.
        with torch.cuda.graph(
            graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
        ):
            self.slots.step(policy, count, span)
        self.num_bytes += max(torch.cuda.memory_reserved(device) - before, 0)
        return graph


@contextmanager
def _no_waiting() -> Iterator[None]:
    """Find operations that wait for the device before a capture, which they would break."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    except RuntimeError as error:
        if "synchronizing CUDA operation" not in str(error):
            raise
        raise CannotCaptureError("its decoding step waits for results on the CPU") from error
    finally:
        torch.cuda.set_sync_debug_mode(before)
