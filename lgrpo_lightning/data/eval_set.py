"""One of several evaluation sets, as a configuration describes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lgrpo_lightning.data.prompt_format import PromptFormat
from lgrpo_lightning.data.prompts import PromptSet


@dataclass
class EvalSet:
    """One of several evaluation sets. What is left out is as for the training set.

    Args:
        path: Files, a folder, a name on the hub, or rows; see :class:`PromptGroupDataModule`.
        name: Configuration of a set on the hub.
        split: Which split; it may be left out where there is only one.
        columns: Our name for columns of this set.
        system_prompt: System message; an empty text for none.
        template: Template of the prompts; "{prompt}" leaves them as they are.
        conversational: Whether prompts are conversations.
        limit: Take the first rows only; by default ``eval_limit``.
    """

    path: str | list[str] | list[dict[str, Any]]
    name: str | None = None
    split: str | None = None
    columns: dict[str, str] | None = None
    system_prompt: str | None = None
    template: str | None = None
    conversational: bool | None = None
    limit: int | None = None

    def format(self, base: PromptFormat) -> PromptFormat:
        """Return what is put around the prompts, given what it is for the training set."""
        system = base.system_prompt if self.system_prompt is None else self.system_prompt
        return PromptFormat(
            system or None,
            base.template if self.template is None else self.template,
            base.conversational if self.conversational is None else self.conversational,
        )

    def load(
        self,
        source_name: str,
        columns: dict[str, str] | None,
        prompt_format: PromptFormat,
        limit: int | None,
    ) -> PromptSet:
        """Load the prompts.

        Args:
            source_name: What ``sources`` of the batches says.
            columns: The training set's columns, used where this set has none of its own.
            prompt_format: What is put around the prompts.
            limit: Used where this set has none of its own.

        Raises:
            ValueError: As for :meth:`PromptSet.load`.
        """
        return PromptSet.load(
            self.path,
            config=self.name,
            split=self.split,
            default_split=None,
            columns=columns if self.columns is None else self.columns,
            prompt_format=prompt_format,
            limit=limit if self.limit is None else self.limit,
            name=source_name,
        )
