"""How much memory a run takes on each process, told from its settings before it is run.

Weights are not loaded: the model is built without memory for them, and what one of its blocks keeps
for the backward pass is counted by running it that way.
"""

from lgrpo_lightning.memory.case import MemoryCase
from lgrpo_lightning.memory.estimate import Estimate, Part, estimate

__all__ = ["Estimate", "MemoryCase", "Part", "estimate"]
