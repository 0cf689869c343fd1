"""Groups of completions, and updates made of them, of the benchmarks of the update.

Legend: P prompt tokens, C completion tokens, G completions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lgrpo_lightning.objective import LambdaGRPOLoss, LossInputs
from lgrpo_lightning.policy import completion_logprobs
from lgrpo_lightning.tree import ProcessTree

Update = Callable[[], None]


@dataclass(frozen=True)
class Group:
    """One group of random completions.

    Args:
        prompt: P.
        completion: C, tokens of the longest completion.
        size: G.
        shared: mean share of a completion's tokens that it has from an earlier one's beginning.
        varied: lengths between an eighth of C and C instead of C.
    """

    prompt: int
    completion: int
    size: int
    shared: float = 0.0
    varied: bool = False

    def tensors(self, vocabulary: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Prompt and completion ids and masks, [1, P] and [1, G, C], always the same."""
        generator = torch.Generator().manual_seed(0)
        prompt = torch.randint(3, vocabulary, (1, self.prompt), generator=generator)
        shape = (1, self.size, self.completion)
        ids = torch.randint(3, vocabulary, shape, generator=generator)
        most = int(2 * self.shared * self.completion)
        for row in range(1, self.size if most else 1):
            tokens = int(torch.randint(0, most + 1, (1,), generator=generator))
            source = int(torch.randint(0, row, (1,), generator=generator))
            ids[0, row, :tokens] = ids[0, source, :tokens]
        lengths = torch.full((1, self.size, 1), self.completion)
        if self.varied:
            lengths = torch.randint(
                self.completion // 8, self.completion + 1, lengths.shape, generator=generator
            )
            lengths[0, 0] = self.completion
        mask = torch.arange(self.completion) < lengths
        return prompt, torch.ones_like(prompt, dtype=torch.bool), ids, mask

    def limit(self) -> float:
        """Padded tokens ÷ unique tokens, what the tree could gain if nothing else cost anything."""
        ids, mask = self.tensors(4096)[2:]
        nodes = int(ProcessTree.from_completions(ids, mask).num_nodes)
        return self.size * (self.prompt + self.completion) / (self.prompt + nodes)


def engine(name: Any) -> Callable[..., Tensor]:  # noqa: ANN401 - the name of an engine
    """Log-probs by one of the package's engines."""

    def logprobs(
        model: nn.Module, prompt_ids: Tensor, prompt_mask: Tensor, ids: Tensor, mask: Tensor
    ) -> Tensor:
        return completion_logprobs(model, prompt_ids, prompt_mask, ids, mask, engine=name)

    return logprobs


def plain_logprobs(
    model: nn.Module, prompt_ids: Tensor, prompt_mask: Tensor, ids: Tensor, mask: Tensor
) -> Tensor:
    """A padded pass with all logits of the completions at once."""
    rows, kept = ids[0], mask[0]
    prompts = prompt_ids.expand(len(rows), -1)
    logits = model(
        input_ids=torch.cat([prompts, rows], dim=1),
        attention_mask=torch.cat([prompt_mask.expand_as(prompts), kept], dim=1).long(),
        logits_to_keep=rows.shape[1] + 1,
        use_cache=False,
    ).logits[:, :-1]
    chosen = logits.gather(-1, rows.unsqueeze(-1)).squeeze(-1)
    return torch.where(kept, chosen - logits.logsumexp(-1), 0.0).unsqueeze(0)


def own_update(
    model: nn.Module, batch: tuple[Tensor, ...], logprobs: Callable[..., Tensor]
) -> Update:
    """λ-GRPO's loss on the log-probs, the process tree included."""
    ids, mask = batch[2:]
    advantages = torch.linspace(-1, 1, ids.shape[1], device=ids.device)
    loss = LambdaGRPOLoss()

    def update() -> None:
        model.zero_grad()
        tree = ProcessTree.from_completions(ids, mask)
        values = logprobs(model, *batch)[0]
        inputs = LossInputs(
            logprobs=values,
            old_logprobs=values.detach(),
            ref_logprobs=None,
            advantages=advantages,
            mask=mask[0],
            set_sizes=tree.set_sizes[0],
            denominators=mask.sum().expand(ids.shape[1]).float(),
        )
        loss(inputs).loss.backward()  # type: ignore[no-untyped-call]

    return update
