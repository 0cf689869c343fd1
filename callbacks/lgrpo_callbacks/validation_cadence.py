"""Validation runs every n optimizer steps, by the trainer's own settings."""

from lightning.pytorch import LightningModule, Trainer

_DEFAULT = (1.0, 1)  # once an epoch


def validate_every(trainer: Trainer, pl_module: LightningModule, num_steps: int) -> None:
    """Have the trainer validate every n optimizer steps, counted over the whole run.

    Lightning reads these settings when the training data is set up, which comes after the
    callbacks' ``setup``. They count batches: n × ``accumulate_grad_batches``. A trial run
    (``fast_dev_run``) keeps its own.

    Args:
        trainer: at ``setup`` of a fit.
        pl_module: what is trained.
        num_steps: n.

    Raises:
        ValueError: if the trainer has been given another cadence, or steps the optimizer makes by
            itself cannot be counted in batches.
    """
    if trainer.fast_dev_run:  # type: ignore[attr-defined]  # Lightning does not declare it
        return
    if not pl_module.automatic_optimization:
        raise ValueError(
            f"RewardEvaluator(every_n_steps={num_steps}): {type(pl_module).__name__} optimises by "
            "itself, so optimizer steps are no number of batches; set the trainer's "
            "val_check_interval, and every_n_steps to None"
        )
    wanted = (num_steps * trainer.accumulate_grad_batches, None)
    # A cadence in wall time leaves the trainer without this attribute.
    interval = getattr(trainer, "val_check_interval", "in time")
    given = (interval, trainer.check_val_every_n_epoch)
    is_default = given == _DEFAULT and isinstance(interval, float)
    if not is_default and given != wanted:
        raise ValueError(
            f"RewardEvaluator(every_n_steps={num_steps}) means a val_check_interval of "
            f"{wanted[0]} batches and check_val_every_n_epoch None, but the trainer was given "
            f"{given[0]} and {given[1]}; leave both out, or set every_n_steps to None"
        )
    trainer.val_check_interval, trainer.check_val_every_n_epoch = wanted


def check_whole_steps(trainer: Trainer) -> None:
    """Refuse epochs that end within an optimizer step, which Lightning then makes of fewer batches.

    Raises:
        ValueError: naming both numbers.
    """
    batches, together = trainer.num_training_batches, trainer.accumulate_grad_batches
    if batches == float("inf") or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    one_epoch_is_enough = 0 <= trainer.max_steps * together <= batches
    if batches % together and not one_epoch_is_enough:
        raise ValueError(
            f"RewardEvaluator(every_n_steps=…): an epoch has {batches} batches, which is no "
            f"multiple of accumulate_grad_batches {together}, so optimizer steps cannot be counted "
            f"in batches; set limit_train_batches to {batches // together * together}, or "
            "every_n_steps to None"
        )
