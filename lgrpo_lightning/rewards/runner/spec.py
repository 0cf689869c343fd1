"""How a user names the reward functions of a run."""

import functools
import math
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from lgrpo_lightning.rewards.runner.messages import Target

_ADVICE = (
    "Reward functions run in worker processes, which have to import them: define it at module "
    "level of an importable file, such as my_rewards.py in the working directory, and name it "
    "'my_rewards.<name>'"
)


@dataclass
class RewardSpec:
    """A reward function with its weight.

    Args:
        function: dotted path (``my_rewards.brevity``) or file and name
            (``path/to/my_rewards.py:brevity``) of a function or class; in Python also the
            function, class or instance itself.
        weight: its factor in the total reward; 0 records it only. None is 1, and 0 among
            rewards that are for evaluation only.
        arguments: constructor arguments, if it is a class.
        name: its name in logs and tables; None takes that of the function or class.
    """

    function: str | Callable[..., Any]
    weight: float | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    name: str | None = None


RewardLike = str | RewardSpec | Callable[..., Any]


@dataclass(frozen=True)
class NamedReward:
    """A reward that has a name, a weight, and can be sent to a worker."""

    name: str
    weight: float
    target: Target


def resolve_rewards(
    rewards: Sequence[RewardLike], default_weight: float = 1.0
) -> list[NamedReward]:
    """Names, weights and load targets of a run's rewards, in their order.

    Args:
        rewards: paths, specs, functions, classes or instances.
        default_weight: of those that have none.

    Raises:
        ValueError: for no rewards, a weight that is not finite, two rewards of one name, and
            functions that no other process can import (lambdas, closures, ``__main__``).
    """
    if isinstance(rewards, str | RewardSpec) or not isinstance(rewards, Sequence):
        raise ValueError(f"rewards must be a list, got {rewards!r:.100}; put it into [ ]")
    if not rewards:
        raise ValueError("there are no rewards; name at least one function")
    resolved = [_resolve(reward, default_weight) for reward in rewards]
    names = [reward.name for reward in resolved]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"{names.count(name)} rewards are called {name!r}; give each a name of its own: "
                "RewardSpec(function=…, name=…)"
            )
    return resolved


def _resolve(reward: RewardLike, default_weight: float) -> NamedReward:
    spec = reward if isinstance(reward, RewardSpec) else RewardSpec(reward)
    if not isinstance(spec.function, str) and not callable(spec.function):
        raise ValueError(
            f"a reward must be a dotted path, a RewardSpec or a function, got {reward!r:.100}"
        )
    name = _default_name(spec.function) if spec.name is None else spec.name
    if not name:
        raise ValueError(f"a reward's name must not be empty: {reward!r:.200}")
    weight = default_weight if spec.weight is None else spec.weight
    if isinstance(weight, bool) or not isinstance(weight, Real) or not math.isfinite(weight):
        raise ValueError(f"reward {name!r}: weight must be a finite number, got {weight!r}")
    return NamedReward(name, float(weight), _target(name, spec))


def _default_name(function: str | Callable[..., Any]) -> str:
    if isinstance(function, str):
        return function.rpartition(":")[2].rpartition(".")[2]
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__))


def _target(name: str, spec: RewardSpec) -> Target:
    if isinstance(spec.function, str):
        return Target(name, path=spec.function, arguments=spec.arguments)
    try:
        pickled = pickle.dumps(spec.function)
    # What pickle raises depends on the object: these are its documented and its usual ways.
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(f"reward {name!r} can't be pickled: {error}. {_ADVICE}") from None
    if b"__main__" in pickled:
        raise ValueError(f"reward {name!r} belongs to the main script or notebook. {_ADVICE}")
    return Target(name, pickled=pickled, arguments=spec.arguments)
