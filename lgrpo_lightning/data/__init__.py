"""Prompts: where they come from, how they become model input, and how they are dealt out."""

from lgrpo_lightning.data.batch import Message, Prompt, PromptBatch
from lgrpo_lightning.data.eval_set import EvalSet
from lgrpo_lightning.data.formatting import EncodedPrompts, PromptEncoder, completion_messages
from lgrpo_lightning.data.loader import PromptLoader
from lgrpo_lightning.data.module import PromptGroupDataModule, RolloutModule
from lgrpo_lightning.data.prompt_format import PromptFormat
from lgrpo_lightning.data.prompts import PromptSet

__all__ = [
    "EncodedPrompts",
    "EvalSet",
    "Message",
    "Prompt",
    "PromptBatch",
    "PromptEncoder",
    "PromptFormat",
    "PromptGroupDataModule",
    "PromptLoader",
    "PromptSet",
    "RolloutModule",
    "completion_messages",
]
