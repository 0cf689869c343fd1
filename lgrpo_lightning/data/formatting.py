"""From prompts to token ids, and from generated text back to messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jinja2 import TemplateError
from torch import Tensor

from lgrpo_lightning.data.batch import Message, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class EncodedPrompts:
    """Prompts as a model reads them.

    Attributes:
        prompt_ids: [B, P] long, left-padded.
        prompt_mask: [B, P] bool, False at padding.
        texts: B prompts as text, the chat template applied.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    texts: list[str]


class PromptEncoder:
    """Turns prompts into left-padded token ids.

    A text is tokenised as it is, with the special tokens that the tokenizer puts in front. A
    conversation goes through the tokenizer's chat template, up to where the assistant begins to
    speak; the template brings its own special tokens. Neither ever has two BOS tokens, or an EOS
    token that some tokenizers append and that would end the completion before it begins.

    Args:
        tokenizer: Tokenizer of the policy.
        max_prompt_tokens: Longest prompt in tokens, special tokens included; None for no limit.

    Raises:
        ValueError: If ``max_prompt_tokens`` is below 1.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, max_prompt_tokens: int | None = None
    ) -> None:
        if max_prompt_tokens is not None and max_prompt_tokens < 1:
            raise ValueError(f"max_prompt_tokens is {max_prompt_tokens}; it must be 1 or more")
        self.tokenizer = tokenizer
        self.max_prompt_tokens = max_prompt_tokens

    def __call__(
        self, prompts: Sequence[Prompt], rows: Sequence[int] | None = None
    ) -> EncodedPrompts:
        """Encode B prompts.

        Args:
            prompts: Texts or conversations, also mixed.
            rows: Their row numbers, for messages; by default 0 … B - 1.

        Raises:
            ValueError: If a prompt is too long or has no tokens, or a conversation cannot be
                rendered.
        """
        if not prompts:
            raise ValueError("there are no prompts to encode")
        rows = range(len(prompts)) if rows is None else rows
        texts = self._render(prompts, rows)
        ids = self._tokenize(prompts, texts)
        self._check(ids, rows)
        width = max(len(row) for row in ids)
        pad = self.tokenizer.pad_token_id
        # Padding is masked, so any id of the vocabulary will do where there is none for it.
        prompt_ids = torch.full((len(ids), width), 0 if pad is None else pad, dtype=torch.long)
        prompt_mask = torch.zeros(len(ids), width, dtype=torch.bool)
        for index, row in enumerate(ids):
            prompt_ids[index, width - len(row) :] = torch.tensor(row, dtype=torch.long)
            prompt_mask[index, width - len(row) :] = True
        return EncodedPrompts(prompt_ids, prompt_mask, texts)

    def lengths(self, prompts: Sequence[Prompt]) -> list[int]:
        """Return the length of each prompt in tokens, however long it is.

        Raises:
            ValueError: If a conversation cannot be rendered.
        """
        texts = self._render(prompts, range(len(prompts)))
        return [len(ids) for ids in self._tokenize(prompts, texts)]

    def check(self, prompts: Sequence[Prompt], rows: Sequence[int] | None = None) -> None:
        """Check before training that all prompts can be encoded.

        Args:
            prompts: Texts or conversations.
            rows: Their row numbers, for messages; by default 0 … B - 1.

        Raises:
            ValueError: As when encoding.
        """
        rows = range(len(prompts)) if rows is None else rows
        self._check(self._tokenize(prompts, self._render(prompts, rows)), rows)

    def _render(self, prompts: Sequence[Prompt], rows: Sequence[int]) -> list[str]:
        return [
            prompt if isinstance(prompt, str) else self._apply_chat_template(prompt, row)
            for prompt, row in zip(prompts, rows, strict=True)
        ]

    def _apply_chat_template(self, messages: list[Message], row: int) -> str:
        if not self.tokenizer.chat_template:
            raise ValueError(
                f"the prompt of row {row} is a conversation, but the tokenizer "
                f"{self.tokenizer.name_or_path!r} has no chat template; use an instruction-tuned "
                "model, set tokenizer.chat_template, or give plain text prompts (no system_prompt, "
                "conversational not true)"
            )
        try:
            text = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:
            raise ValueError(
                f"the model's chat template refuses the prompt of row {row}: {error}"
            ) from error
        return str(text)

    def _tokenize(self, prompts: Sequence[Prompt], texts: list[str]) -> list[list[int]]:
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        plain = [isinstance(prompt, str) for prompt in prompts]
        if not any(plain):
            return ids
        front = self._front(
            max((t for t, is_plain in zip(texts, plain, strict=True) if is_plain), key=len)
        )
        return [
            front + row if is_plain and row[: len(front)] != front else row
            for row, is_plain in zip(ids, plain, strict=True)
        ]

    def _front(self, text: str) -> list[int]:
        """Return the special tokens that the tokenizer puts in front of a text."""
        bare = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        full = self.tokenizer(text, add_special_tokens=True)["input_ids"]
        for start in range(len(full) - len(bare), -1, -1):
            if full[start : start + len(bare)] == bare:
                return list(full[:start])
        raise ValueError(
            f"the tokenizer {self.tokenizer.name_or_path!r} reads {text!r:.80} differently with "
            "and without special tokens, so it is unclear which of them open a prompt"
        )

    def _check(self, ids: list[list[int]], rows: Sequence[int]) -> None:
        for row, prompt in zip(rows, ids, strict=True):
            if not prompt:
                raise ValueError(f"the prompt of row {row} has no tokens")
        if self.max_prompt_tokens is None:
            return
        long = [
            (len(p), r) for p, r in zip(ids, rows, strict=True) if len(p) > self.max_prompt_tokens
        ]
        if long:
            longest, row = max(long)
            raise ValueError(
                f"{len(long)} of {len(ids)} prompts have more than max_prompt_tokens="
                f"{self.max_prompt_tokens} tokens; the longest, of row {row}, has {longest}. Raise "
                "max_prompt_tokens or leave these rows out"
            )


def completion_messages(text: str) -> list[Message]:
    """Return a completion the way reward functions get it for a conversational prompt."""
    return [{"role": "assistant", "content": text}]
