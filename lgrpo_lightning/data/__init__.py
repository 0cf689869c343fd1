"""Prompts: where they come from, how they become model input, and how they are dealt out."""

from lgrpo_lightning.data.batch import Message, Prompt, PromptBatch

__all__ = ["Message", "Prompt", "PromptBatch"]
