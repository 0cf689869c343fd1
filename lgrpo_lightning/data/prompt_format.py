"""How a row becomes a prompt: template, system prompt, text or conversation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter
from typing import Any

from lgrpo_lightning.data.batch import Message, Prompt


@dataclass(frozen=True)
class PromptFormat:
    r"""What is put around the prompts of a data set.

    Args:
        system_prompt: Becomes the first message, of role "system"; a text prompt becomes a
            conversation by it.
        template: Text with column names as fields, in the manner of ``str.format``, for example
            ``"{prompt}\nPut the answer in \\boxed{{}}."``. In a conversation ``{prompt}`` is the
            last message, which the filled-in template replaces. A template without ``{prompt}``
            makes the prompt from other columns alone.
        conversational: True turns a text prompt into one message of role "user", so that the
            model's chat template is applied; False refuses conversations; None leaves the prompts
            as they are.

    Raises:
        ValueError: If the template has no or nameless fields, or the arguments contradict each
            other.
    """

    system_prompt: str | None = None
    template: str | None = None
    conversational: bool | None = None

    def __post_init__(self) -> None:
        if self.system_prompt is not None and not self.system_prompt.strip():
            raise ValueError("system_prompt is empty; leave it out for none")
        if self.system_prompt is not None and self.conversational is False:
            raise ValueError("a system_prompt makes a conversation; conversational cannot be False")
        if self.template is not None and not self.fields:
            raise ValueError(
                f"the template {self.template!r} has no field, so all prompts would be the same; "
                "write {prompt} where the prompt belongs"
            )

    @property
    def fields(self) -> frozenset[str]:
        """Columns that a prompt is made of."""
        if self.template is None:
            return frozenset({"prompt"})
        try:
            parts = [part for part in Formatter().parse(self.template) if part[1] is not None]
        except ValueError as error:
            raise ValueError(
                f"the template {self.template!r} is broken: {error}; write {{{{ and }}}} for "
                "braces that are text"
            ) from error
        for _, name, _, _ in parts:
            if name is None or not name.isidentifier():
                raise ValueError(
                    f"the template {self.template!r} has a field {{{name}}}, which is no column "
                    "name; write {{ and }} for braces that are text, as in \\boxed{{}}"
                )
        return frozenset(name for _, name, _, _ in parts if name is not None)

    def render(self, row: Mapping[str, Any]) -> Prompt:
        """Make the prompt of one row.

        Args:
            row: A value for each of ``fields``.

        Returns:
            The prompt: text, or a list of role messages.

        Raises:
            ValueError: If the row cannot be a prompt; the message says why, not where.
        """
        for name, value in row.items():
            if value is None:
                raise ValueError(f"{name} is None")
        prompt = row.get("prompt")
        if isinstance(prompt, list):
            return self._conversation(_messages(prompt), row)
        if prompt is not None and not isinstance(prompt, str):
            raise ValueError(f"prompt is of type {type(prompt).__name__}, not text or messages")
        text = self._fill(row) if self.template is not None else str(prompt)
        if not text.strip() or (prompt is not None and not prompt.strip()):
            raise ValueError("prompt is empty")
        if self.system_prompt is None and not self.conversational:
            return text
        return self._with_system([{"role": "user", "content": text}])

    def _conversation(self, messages: list[Message], row: Mapping[str, Any]) -> list[Message]:
        if self.conversational is False:
            raise ValueError("prompt is a conversation, but conversational is False")
        if self.template is not None:
            text = self._fill({**row, "prompt": messages[-1]["content"]})
            messages = [*messages[:-1], {**messages[-1], "content": text}]
        return self._with_system(messages)

    def _with_system(self, messages: list[Message]) -> list[Message]:
        if self.system_prompt is None:
            return messages
        if any(message["role"] == "system" for message in messages):
            raise ValueError("prompt has a system message already; leave out system_prompt")
        return [{"role": "system", "content": self.system_prompt}, *messages]

    def _fill(self, row: Mapping[str, Any]) -> str:
        assert self.template is not None
        return self.template.format_map(row)


def _messages(messages: list[Any]) -> list[Message]:
    """Check a list of role messages and return it without empty extras.

    Arrow gives every message the keys that any of them has; those that are None were never there.
    """
    if not messages:
        raise ValueError("prompt is an empty list of messages")
    checked = []
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise ValueError(f"message {index} is a {type(message).__name__}, not a dictionary")
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                raise ValueError(f"message {index} has no text under {key!r}")
        present = {key: value for key, value in message.items() if value is not None}
        for key, value in present.items():
            if not isinstance(value, str):
                raise ValueError(f"message {index} has a {type(value).__name__} under {key!r}")
        checked.append(present)
    if checked[-1]["role"] == "assistant":
        raise ValueError("the last message is the assistant's, which leaves nothing to complete")
    if not checked[-1]["content"].strip():
        raise ValueError("the last message is empty")
    return checked
