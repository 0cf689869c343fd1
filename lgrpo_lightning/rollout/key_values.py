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
        self.ensure(layer, keys, values)
        self.keys[layer][start : start + len(keys)] = keys
        self.values[layer][start : start + len(values)] = values

    def put(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Write the first tokens of some slots: [q] long, [q, K, l, E] and [q, K, l, E'], l ≤ L."""
        self.ensure(layer, keys, values)
        self.keys[layer][slots, :, : keys.shape[2]] = keys
        self.values[layer][slots, :, : values.shape[2]] = values

    def append(self, layer: int, places: Tensor | int, keys: Tensor, values: Tensor) -> None:
        """Write one token into each of the first n slots: [n, K, 1, E] and [n, K, 1, E'].

        Args:
            layer: which layer.
            places: where; a number for the same place in all slots, else [n·K] long, see
                :meth:`flat_places`.
            keys: of the tokens.
            values: of the tokens.
        """
        self.ensure(layer, keys, values)
        rows = len(keys)
        for stored, states in ((self.keys[layer], keys), (self.values[layer], values)):
            if isinstance(places, int):
                stored[:rows, :, places] = states[:, :, 0]
            else:
                flat = states.reshape(len(places), -1).to(stored.dtype)
                stored.view(-1, stored.shape[3]).index_copy_(0, places, flat)

    def flat_places(self, places: Tensor, heads: int) -> Tensor:
        """[n] places in the first n slots to [n·K] places in a layer's memory, K = ``heads``."""
        head = torch.arange(len(places) * heads, device=places.device)
        return head * self.length + places.repeat_interleave(heads, output_size=len(head))

    def clear(self) -> None:
        """Set all keys and values to 0."""
        for stored in (*self.keys, *self.values):
            stored.zero_()

    def move(self, order: Sequence[int], length: int) -> None:
        """Slot j takes the first ``length`` tokens of slot ``order[j]``; see :func:`compacted`."""
        moved = [(slot, source) for slot, source in enumerate(order) if slot != source]
        if not moved:
            return
        device = self.keys[0].device if self.keys else None
        slots, sources = torch.tensor(moved, device=device).unbind(1)
        self.copy(slots, sources, length)

    def copy(self, slots: Tensor, sources: Tensor, length: int) -> None:
        """Slots, [k] long, take the first ``length`` tokens of others, which are none of them."""
        for stored in (*self.keys, *self.values):
            stored[slots, :, :length] = stored[sources, :, :length]

    def ensure(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Allocate a layer's memory for states of such heads, sizes and types, [·, K, ·, E]."""
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
