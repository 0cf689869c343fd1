"""The text of a completion, in either of the two forms reward functions receive."""

from collections.abc import Sequence

Message = dict[str, str]
Completion = str | Sequence[Message]
Prompt = str | Sequence[Message]


def completion_text(completion: Completion) -> str:
    """Text the model wrote, of a plain or a conversational completion.

    Args:
        completion: a string, or role messages such as
            ``[{"role": "assistant", "content": "…"}]``; of several, the last assistant message
            counts.

    Returns:
        The text. The prompt is no part of it.

    Raises:
        ValueError: if it is neither form, or has no assistant message with a text.

    Example::

        >>> completion_text([{"role": "assistant", "content": "LLRL"}])
        'LLRL'
    """
    if isinstance(completion, str):
        return completion
    if not isinstance(completion, Sequence):
        raise ValueError(
            f"a completion must be a string or a list of role messages, got {completion!r:.200}"
        )
    for message in reversed(completion):
        if isinstance(message, dict) and message.get("role") == "assistant":
            content = message.get("content")
            if isinstance(content, str):
                return content
    raise ValueError(f"no assistant message with a text in the completion {completion!r:.200}")
