"""What every sampler can do."""

from typing import Protocol

from torch import Tensor, nn

from lgrpo_lightning.rollout.completions import Completions
from lgrpo_lightning.rollout.settings import SamplingSettings


class Sampler(Protocol):
    """Draws completions from a policy."""

    def sync(self, policy: nn.Module) -> None:
        """Take over the policy's weights, where the sampler holds a copy of its own.

        All processes call it at once, before they sample from a policy that may have changed.
        """
        ...

    def sample(
        self,
        policy: nn.Module,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        group_size: int,
        settings: SamplingSettings,
        seed: int,
    ) -> Completions:
        """Draw ``group_size`` completions for each prompt.

        Args:
            policy: the model to sample from; left in the mode it was in.
            prompt_ids: [B, P] long, left-padded.
            prompt_mask: [B, P] bool.
            group_size: G.
            settings: distribution and limits.
            seed: fixes the completions; the global random state is left as it was.
        """
        ...
