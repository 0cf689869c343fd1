"""A small recurrent policy over characters.

Legend: R rows, P prompt tokens, T completion tokens, V tokens of the vocabulary.
"""

import torch
from torch import Tensor, nn

from .task import MAX_TOKENS, TOKENS


class LetterPolicy(nn.Module):
    """A GRU that predicts the next character."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(TOKENS), width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, len(TOKENS))

    def forward(self, prompts: Tensor, completions: Tensor) -> Tensor:
        """Return log-probs of all tokens, [R, T, V], for prompts [R, P] and completions [R, T]."""
        ids = torch.cat([prompts, completions], dim=1)
        hidden, _ = self.gru(self.embedding(ids[:, :-1]))
        logprobs: Tensor = self.head(hidden[:, prompts.shape[1] - 1 :]).log_softmax(dim=-1)
        return logprobs

    @torch.no_grad()
    def sample(self, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Draw a completion for each row of [R, P]; return ids and mask, [R, T] long and bool."""
        hidden, state = self.gru(self.embedding(prompts))
        running = torch.ones(len(prompts), dtype=torch.bool, device=prompts.device)
        ids, mask = [], []
        for _ in range(MAX_TOKENS):
            token = torch.multinomial(self.head(hidden[:, -1]).softmax(dim=-1), 1)  # [R, 1]
            ids.append(token.squeeze(1) * running)
            mask.append(running)
            running = running & token.squeeze(1).ne(0)  # 0 is the end, an ordinary token before
            hidden, state = self.gru(self.embedding(token), state)
        return torch.stack(ids, dim=1), torch.stack(mask, dim=1)
