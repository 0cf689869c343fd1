"""Keys and values of tokens that have been run, in memory that is allocated once.

Legend: S slots, L tokens of a slot, K key-value heads, E head size, n rows.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class KeyValueStore:
    """S slots of L tokens for every layer; a layer's memory is allocated at its first write.

    Args:
        slots: S.
        length: L.

    Attributes:
        keys: per layer [S, K, L, E].
        values: per layer [S, K, L, E'].
    """

    def __init__(self, slots: int, length: int) -> None:
        self.slots = slots
        self.length = length
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def fill(self, layer: int, start: int, keys: Tensor, values: Tensor) -> None:
        """Write whole slots from ``start`` on: [q, K, L, E] and [q, K, L, E']."""
        self._ensure(layer, keys, values)
        self.keys[layer][start : start + len(keys)] = keys
        self.values[layer][start : start + len(values)] = values

    def append(self, layer: int, places: Tensor | int, keys: Tensor, values: Tensor) -> None:
        """Write one token into each of the first n slots: [n, K, 1, E] and [n, K, 1, E'].

        Args:
            layer: which layer.
            places: [n] long, where in each slot; a number where all are the same, which is faster.
            keys: of the tokens.
            values: of the tokens.
        """
        self._ensure(layer, keys, values)
        rows = len(keys)
        for stored, states in ((self.keys[layer], keys), (self.values[layer], values)):
            if isinstance(places, int):
                stored[:rows, :, places] = states[:, :, 0]
            else:
                slots = torch.arange(rows, device=places.device)
                stored[slots, :, places] = states[:, :, 0].to(stored.dtype)

    def move(self, order: Sequence[int], length: int) -> None:
        """Slot j takes the first ``length`` tokens of slot ``order[j]``; see :func:`compacted`."""
        moved = [(slot, source) for slot, source in enumerate(order) if slot != source]
        if not moved:
            return
        for stored in (*self.keys, *self.values):
            slots, sources = torch.tensor(moved, device=stored.device).unbind(1)
            stored[slots, :, :length] = stored[sources, :, :length]

    def _ensure(self, layer: int, keys: Tensor, values: Tensor) -> None:
        if layer < len(self.keys):
            return
        for stored, states in ((self.keys, keys), (self.values, values)):
            shape = (self.slots, states.shape[1], self.length, states.shape[3])
            # Zeros: what is masked takes no share, but a NaN left in memory would spread.
            stored.append(states.new_zeros(shape))


def compacted(count: int, gone: Sequence[int]) -> list[int]:
    """Where to take the slots from so that the first ones are in use, with the fewest moves.

    The last slots move into the holes; a source is never also a destination.

    Args:
        count: slots in use.
        gone: those of them that have become free.

    Returns:
        The source of each of the ``count - len(gone)`` slots.
    """
    order = list(range(count))
    for slot in sorted(gone, reverse=True):
        order[slot] = order[-1]
        order.pop()
    return order
