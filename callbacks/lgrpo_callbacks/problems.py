"""Problems of an evaluation, as plain values.

Legend: B problems, n completions of a problem.
"""

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

from torch import Tensor


class Problem(TypedDict):
    """One problem with its n completions, as plain values and as a line of the file.

    ``answers`` is there only if the module returns it; None for a completion without an answer.
    """

    prompt: str
    source: str
    completions: list[str]
    rewards: list[float]
    reward_breakdown: dict[str, list[float]]
    lengths: list[int]
    truncated: list[bool]
    answers: NotRequired[list[str | None]]


def problems_of_batch(outputs: Mapping[str, Any]) -> list[Problem]:
    """Turn one evaluation step's output into plain values, one record per problem.

    Args:
        outputs: ``rewards``, ``lengths``, ``truncated`` [B, n], ``reward_breakdown``
            {name: [B, n]}, ``prompts``, ``sources`` (B), ``completions`` (B × n) and, where given,
            ``answers`` (B × n texts or None).

    Raises:
        ValueError: naming the key whose size differs from the rewards'.
    """
    rewards: Tensor = outputs["rewards"]
    if rewards.dim() != 2:
        raise ValueError(f"rewards must be [problems, completions], got {list(rewards.shape)}")
    per_function: dict[str, Tensor] = outputs["reward_breakdown"]
    tensors = {
        "lengths": outputs["lengths"],
        "truncated": outputs["truncated"],
        **{f"reward_breakdown[{name!r}]": values for name, values in per_function.items()},
    }
    for name, values in tensors.items():
        if values.shape != rewards.shape:
            raise ValueError(
                f"{name} must have the rewards' shape {list(rewards.shape)}, got "
                f"{list(values.shape)}"
            )
    size, num_samples = rewards.shape
    nested = [name for name in ("completions", "answers") if name in outputs]
    for name in ("prompts", "sources", *nested):
        if len(outputs[name]) != size:
            raise ValueError(f"{name} must have {size} entries, got {len(outputs[name])}")
    for name in nested:
        for entries in outputs[name]:
            if len(entries) != num_samples:
                raise ValueError(
                    f"{name} must have {num_samples} entries for every problem, got {len(entries)}"
                )
    breakdown = {name: values.tolist() for name, values in per_function.items()}
    columns = zip(
        outputs["prompts"],
        outputs["sources"],
        outputs["completions"],
        rewards.tolist(),
        outputs["lengths"].tolist(),
        outputs["truncated"].bool().tolist(),
        strict=True,
    )
    problems = [
        Problem(
            prompt=prompt,
            source=source,
            completions=list(completions),
            rewards=row_rewards,
            reward_breakdown={name: values[row] for name, values in breakdown.items()},
            lengths=lengths,
            truncated=truncated,
        )
        for row, (prompt, source, completions, row_rewards, lengths, truncated) in enumerate(
            columns
        )
    ]
    for problem, answers in zip(problems, outputs.get("answers", []), strict=False):
        problem["answers"] = list(answers)
    return problems
