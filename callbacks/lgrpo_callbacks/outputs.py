"""Reading what a step of the module returned."""

from collections.abc import Mapping, Sequence
from typing import Any


def require_keys(
    outputs: object, keys: Sequence[str], callback: object, module: object, step: str
) -> Mapping[str, Any]:
    """Return a step's output, checked for the keys that a callback reads.

    Args:
        outputs: what Lightning passes to the ``on_…_batch_end`` hook.
        keys: the keys the callback needs.
        callback: the callback that reads them.
        module: the LightningModule that has to return them.
        step: name of the method that has to return them, such as ``training_step``.

    Raises:
        ValueError: naming the callback, the missing keys and the method that must return them.
    """
    reader, source = type(callback).__name__, f"{type(module).__name__}.{step}"
    if not isinstance(outputs, Mapping):
        raise ValueError(
            f"{reader} reads the dict that {source} returns, but got {type(outputs).__name__}; "
            f"return a dict with the keys {', '.join(keys)}"
        )
    missing = [key for key in keys if key not in outputs]
    if missing:
        raise ValueError(
            f"{reader} needs {', '.join(map(repr, missing))} in the dict that {source} returns; it "
            f"returned only {', '.join(map(repr, outputs))}. Add what is missing to that dict, "
            f"detached, or remove {reader} from the trainer's callbacks"
        )
    return outputs
