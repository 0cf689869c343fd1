"""Evaluates the policy on validation and test problems."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from lgrpo_callbacks.evaluation import (
    Criterion,
    EvaluationRecord,
    evaluate_problems,
    format_history,
)
from lgrpo_callbacks.folders import run_folder
from lgrpo_callbacks.jsonl import write_new_jsonl
from lgrpo_callbacks.outputs import require_keys
from lgrpo_callbacks.problems import Problem, problems_of_batch
from lgrpo_callbacks.ranks import data_rank, gather_objects_to_first
from lgrpo_callbacks.validation_cadence import check_whole_steps, validate_every

_KEYS = (
    "rewards",
    "reward_breakdown",
    "lengths",
    "truncated",
    "prompts",
    "completions",
    "sources",
)
Stage = Literal["validation", "test"]


class RewardEvaluator(Callback):
    """Rewards and unbiased pass@k of every validation and test run, and a file of its problems.

    It reads ``rewards``, ``lengths``, ``truncated`` [B, n], ``reward_breakdown`` {name: [B, n]},
    ``prompts``, ``sources`` (B) and ``completions`` (B × n) from ``validation_step`` and
    ``test_step``, and where given ``answers`` (B × n texts, or None where a completion has no
    answer). NaN rewards (no function applied) are left out.

    Logged, over all problems of all ranks, and the same number on every rank, so that
    ModelCheckpoint and EarlyStopping can monitor it: ``eval/reward``, ``eval/reward_std`` (sample
    standard deviation over completions), ``eval/reward_function/<name>``, ``eval/unrewarded``,
    ``eval/truncated`` (shares), ``eval/length`` (tokens), ``eval/problems``, and for every k
    ``eval/pass@k`` with its standard error over problems, ``eval/pass@k_se``, and the ends of its
    bootstrap 95 % interval, ``eval/pass@k_low`` and ``eval/pass@k_high``; with ``answers`` and
    k > 1 also ``eval/maj@k`` and the same of it, see
    :func:`~lgrpo_callbacks.metrics.majority_at_k`. Reward, truncation, length, number of problems,
    pass@k and maj@k are also there for each source, as ``eval/source/<source>/<name>``.

    Every evaluation also writes ``<run>/<dirname>/<stage>-step-00000000.jsonl``, a line per
    problem; it appears whole or not at all and replaces no other file. ``history`` keeps the
    figures, also in checkpoints.

    How often is the Trainer's matter, or with ``every_n_steps`` this callback's, which then sets
    the trainer's ``val_check_interval`` and ``check_val_every_n_epoch`` when a fit begins. How
    completions are drawn and scored is the module's: it returns them.

    A sanity check over the whole validation set (``num_sanity_val_steps: -1``) counts as the
    evaluation before training, at step 0; a shorter one is ignored. Problems that a distributed
    sampler repeats to even out the ranks are counted as often as they come.

    Args:
        k: numbers of tries of pass@k and maj@k; a problem needs at least that many completions.
            pass@1 is always there.
        success_threshold: the reward from which a completion counts as solved.
        solved_by: of which function in ``reward_breakdown`` that reward is, for pass@k and maj@k;
            None for the whole reward.
        every_n_steps: optimizer steps between two validation runs while training; None where the
            trainer's own settings say when.
        dirname: folder for the files, under the run's folder or absolute.
        prefix: of the logged names in validation.
        test_prefix: of the logged names in test.
        bootstrap_samples: resamples of the intervals.

    Raises:
        ValueError: if an argument is out of range, a key is missing or of the wrong size, a problem
            has fewer than max(k) completions, or the trainer has another cadence of its own.

    Example::

        >>> from lightning.pytorch import Trainer
        >>> from lightning.pytorch.callbacks import ModelCheckpoint
        >>> from lgrpo_callbacks import RewardEvaluator
        >>> evaluator = RewardEvaluator(k=[1, 4])
        >>> best = ModelCheckpoint(monitor="eval/pass@1", mode="max")
        >>> trainer = Trainer(callbacks=[evaluator, best], num_sanity_val_steps=-1, logger=False)
        >>> print(evaluator.summary())  # after trainer.fit: before and after
        <BLANKLINE>
    """

    def __init__(
        self,
        k: int | Sequence[int] = (1,),
        success_threshold: float = 1.0,
        solved_by: str | None = None,
        every_n_steps: int | None = None,
        dirname: str = "evaluations",
        prefix: str = "eval",
        test_prefix: str = "test",
        bootstrap_samples: int = 1000,
    ) -> None:
        ks = sorted({1, *([k] if isinstance(k, int) else k)})
        if ks[0] < 1:
            raise ValueError(f"k must hold numbers of tries from 1 on, got {k}")
        if not math.isfinite(success_threshold):
            raise ValueError(f"success_threshold must be a finite reward, got {success_threshold}")
        for name, value in (("dirname", dirname), ("prefix", prefix), ("test_prefix", test_prefix)):
            if not value:
                raise ValueError(f"{name} must not be empty")
        if prefix == test_prefix:
            raise ValueError(f"prefix and test_prefix must differ, both are {prefix!r}")
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"every_n_steps must be 1 optimizer step or more, got {every_n_steps}")
        if bootstrap_samples < 1:
            raise ValueError(f"bootstrap_samples must be 1 or more, got {bootstrap_samples}")
        self.ks = ks
        self.criterion = Criterion(success_threshold, solved_by)
        self.every_n_steps = every_n_steps
        self.dirname = dirname
        self.prefixes: dict[str, str] = {"validation": prefix, "test": test_prefix}
        self.bootstrap_samples = bootstrap_samples
        self.history: list[EvaluationRecord] = []
        self._problems: list[Problem] = []
        self._checkpoint_step: int | None = None

    @property
    def state_key(self) -> str:
        """Tell the states of several evaluators apart."""
        return self._generate_state_key(prefix=self.prefixes["validation"], dirname=self.dirname)

    @property
    def paths(self) -> list[Path]:
        """The files written, in order."""
        return [Path(record["file"]) for record in self.history]

    def summary(self, stage: Stage = "validation") -> str:
        """Return a table of a stage's first and last evaluation; empty if there was none."""
        return format_history(self.history, stage)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget the checkpoint of an earlier call; for a fit, set the trainer's cadence."""
        self._checkpoint_step = None
        if stage == "fit" and self.every_n_steps is not None:
            validate_every(trainer, pl_module, self.every_n_steps)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that optimizer steps can be counted in batches."""
        if self.every_n_steps is not None:
            check_whole_steps(trainer)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start an evaluation."""
        self._problems = []

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start an evaluation."""
        self._problems = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's type is wider than what is accepted
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a batch."""
        self._keep(pl_module, outputs, "validation_step")

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a batch."""
        self._keep(pl_module, outputs, "test_step")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate what was kept."""
        if trainer.sanity_checking and trainer.num_sanity_val_batches != trainer.num_val_batches:
            return  # a few batches say nothing about the whole set
        self._evaluate(trainer, pl_module, "validation")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate what was kept."""
        self._evaluate(trainer, pl_module, "test")

    def _keep(self, pl_module: LightningModule, outputs: object, step: str) -> None:
        found = require_keys(outputs, _KEYS, self, pl_module, step)
        problems = problems_of_batch(found)
        decides, known = self.criterion.reward, found["reward_breakdown"]
        if decides is not None and decides not in known:
            raise ValueError(
                f"RewardEvaluator(solved_by={decides!r}): the reward_breakdown that "
                f"{type(pl_module).__name__}.{step} returns has no such function, only "
                f"{', '.join(map(repr, known)) or 'none'}"
            )
        for problem in problems:
            if len(problem["rewards"]) < self.ks[-1]:
                raise ValueError(
                    f"RewardEvaluator(k={self.ks}) needs {self.ks[-1]} completions of every "
                    f"problem, but {type(pl_module).__name__}.{step} returned "
                    f"{len(problem['rewards'])}; sample more or lower k"
                )
        self._problems += problems

    def _evaluate(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        step = trainer.global_step if self._checkpoint_step is None else self._checkpoint_step
        path = run_folder(trainer, self.dirname) / f"{stage}-step-{step:08d}.jsonl"
        shares = gather_objects_to_first(trainer, (data_rank(trainer), self._problems))
        self._problems = []
        record = self._record(shares, step, stage, path) if trainer.is_global_zero else None
        # Rank 0 alone has the problems; everyone takes over its figures.
        record = trainer.strategy.broadcast(record)
        if record is None:
            return
        self.history.append(record)
        metrics = record["metrics"]
        if trainer.sanity_checking:  # where Lightning discards what is logged by the module
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=step)
                logger.save()
            return
        for name, value in metrics.items():
            # All ranks have the same value; "max" keeps it exact where a mean would round it.
            pl_module.log(name, value, reduce_fx="max", sync_dist=True, batch_size=1)

    def _record(
        self, shares: list[tuple[int, list[Problem]]], step: int, stage: Stage, path: Path
    ) -> EvaluationRecord | None:
        # Ranks that work on the same data (tensor parallelism) count once.
        by_rank = dict(reversed(shares))
        problems = [problem for rank in sorted(by_rank) for problem in by_rank[rank]]
        if not problems:
            return None
        figures = evaluate_problems(problems, self.ks, self.criterion, self.bootstrap_samples)
        prefix = self.prefixes[stage]
        return EvaluationRecord(
            step=step,
            stage=stage,
            metrics={f"{prefix}/{name}": value for name, value in figures.items()},
            file=str(write_new_jsonl(path, problems)),
        )

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note which step is evaluated when a checkpoint is validated or tested by itself."""
        if trainer.state.fn != TrainerFn.FITTING:
            self._checkpoint_step = checkpoint["global_step"]

    def state_dict(self) -> dict[str, Any]:
        """Return the history."""
        return {"history": [dict(record) for record in self.history]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the history of a resumed run."""
        # Testing the best checkpoint after a fit must not forget what came after that checkpoint.
        if self._checkpoint_step is None or not self.history:
            self.history = list(state_dict["history"])
