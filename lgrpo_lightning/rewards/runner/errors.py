"""What can go wrong with a reward function while it runs."""


class RewardError(RuntimeError):
    """A reward function raised, ran out of time or took its worker process down.

    The message names the function, says what happened, and ends with the worker's traceback.
    """
