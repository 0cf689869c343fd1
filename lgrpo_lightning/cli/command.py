"""LightningCLI for λ-GRPO: ``fit``, ``validate``, ``test`` and ``predict``."""

import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lgrpo_callbacks import RewardEvaluator
from lgrpo_lightning.cli.checkpoints import read_checkpoint
from lgrpo_lightning.cli.continuation import Continuation
from lgrpo_lightning.cli.fit_summary import summarise
from lgrpo_lightning.cli.interruption import SaveBeforeEnd, exit_code, farewell
from lgrpo_lightning.cli.metrics_csv import MetricsCSV
from lgrpo_lightning.cli.options import (
    add_options,
    check_options,
    checkpoint_to_load,
    experiment,
)
from lgrpo_lightning.cli.parser import RunParser, in_one_line, parser_settings
from lgrpo_lightning.cli.predictions import PredictionWriter
from lgrpo_lightning.cli.progress import RunProgressBar
from lgrpo_lightning.cli.results import report_results, set_results
from lgrpo_lightning.cli.resume import ResumedOptions, changed_options
from lgrpo_lightning.cli.run_folder import CHECKPOINTS, run_folder, shown_path
from lgrpo_lightning.cli.signals import SafeMoments
from lgrpo_lightning.cli.trainer import RunTrainer, make_resumable
from lgrpo_lightning.data import PromptGroupDataModule
from lgrpo_lightning.module import LambdaGRPO


class ConfigError(Exception):
    """An option's value with which nothing can be built."""


class LambdaCLI(LightningCLI):
    """LightningCLI for :class:`LambdaGRPO` and :class:`PromptGroupDataModule`.

    Differs from LightningCLI in that every run gets a folder of its own, for all that it writes,
    ``--ckpt_path last`` finds the newest checkpoint of the runs of the same name, the command line
    wins over hyperparameters in a checkpoint, and optimizer and scheduler are arguments of the
    model.

    Args:
        args: the command line after ``lgrpo``; None for that of this process.
    """

    def __init__(self, args: list[str] | None = None) -> None:
        self.arguments = sys.argv[1:] if args is None else args
        super().__init__(
            LambdaGRPO,
            PromptGroupDataModule,
            trainer_class=RunTrainer,
            trainer_defaults={"log_every_n_steps": 1},
            seed_everything_default=0,
            auto_configure_optimizers=False,
            parser_class=RunParser,
            parser_kwargs=parser_settings(list(self.subcommands())),
            args=args,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The commands, and which arguments of the trainer's methods are not options."""
        loaders = {"model", "dataloaders", "datamodule", "ckpt_path", "weights_only"}
        return {
            "fit": loaders - {"dataloaders"} | {"train_dataloaders", "val_dataloaders"},
            "validate": loaders | {"verbose"},
            "test": loaders | {"verbose"},
            "predict": loaders | {"return_predictions"},
        }

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what concerns the run as a whole."""
        add_options(parser)

    @property
    def options(self) -> Any:  # noqa: ANN401 - jsonargparse's Namespace
        """The options of the command."""
        return self.config[self.subcommand]

    @cached_property
    def folder(self) -> Path:
        """The run's folder, created when it is first asked for."""
        return run_folder(Path(self.options.runs), self.options.name, str(self.subcommand))

    def _parse_ckpt_path(self) -> None:
        """Do not let hyperparameters in the checkpoint override what was just typed."""

    def before_instantiate_classes(self) -> None:
        """Limit torch's threads before it uses any; find the checkpoint."""
        options = self.options
        check_options(options)
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        options.name = experiment(options)
        options.ckpt_path = checkpoint_to_load(options, str(self.subcommand))
        self.start: dict[str, Any] = {}  # what the checkpoint says of the run that wrote it
        if options.ckpt_path is not None:
            content = read_checkpoint(Path(options.ckpt_path), options.weights_only)
            self.start = {name: content[name] for name in ("global_step", "hyper_parameters")}
        self.parser.add_instantiator(self._logger, Logger, subclasses=True)

    def _logger(self, logger: type[Logger], *args: Any, **kwargs: Any) -> Logger:  # noqa: ANN401
        """Make a logger of the config that writes into the run's folder, not the working one."""
        kwargs.pop("applied_instantiation_links", None)
        if kwargs.get("save_dir") is not None:
            kwargs["save_dir"] = str(self.folder / kwargs["save_dir"])
        return logger(*args, **kwargs)

    def instantiate_classes(self) -> None:
        """Make module, data and trainer.

        Raises:
            ConfigError: if one of them refuses its options.
        """
        try:
            super().instantiate_classes()
        except (ValueError, ImportError, MisconfigurationException) as error:
            if "folder" in vars(self) and self.folder.is_dir() and not any(self.folder.iterdir()):
                self.folder.rmdir()
            raise ConfigError(in_one_line(str(error))) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:  # noqa: ANN401 - LightningCLI's
        """Make the trainer, whose files go to the run's folder."""
        config = self._get(self.config_init, "trainer")
        kwargs["default_root_dir"] = str(self.folder)
        if config.logger in (None, True) and not config.fast_dev_run and not config.barebones:
            tensorboard = TensorBoardLogger(str(self.folder), name="", version="")
            kwargs["logger"] = [tensorboard, MetricsCSV(self.folder)]
        given = config.callbacks or []
        callbacks = [*given] if isinstance(given, list) else [given]
        kwargs["callbacks"] = callbacks + self._own_callbacks(config, callbacks)
        trainer = super().instantiate_trainer(**kwargs)
        make_resumable(trainer)
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint):
                callback.dirpath = callback.dirpath or str(self.folder / CHECKPOINTS)
                # Lightning would save at the end of a trial run, and --ckpt_path last find it.
                callback.save_last = callback.save_last and not config.fast_dev_run
        return trainer

    def _own_callbacks(self, config: Any, given: list[Callback]) -> list[Callback]:  # noqa: ANN401
        callbacks: list[Callback] = [SaveBeforeEnd()]
        silent = config.enable_progress_bar is False or config.barebones
        if not silent and not any(isinstance(callback, ProgressBar) for callback in given):
            callbacks.append(RunProgressBar())
        if self.subcommand == "fit" and self.start:
            changes = changed_options(self.start["hyper_parameters"], self.model.hparams)
            callbacks.append(ResumedOptions(changes))
        if self.subcommand in ("validate", "test"):
            evaluators = [entry for entry in given if isinstance(entry, RewardEvaluator)]
            self.evaluator = (
                evaluators[0] if evaluators else RewardEvaluator(k=self.model.eval_completions)
            )
            callbacks += [] if evaluators else [self.evaluator]
        if self.subcommand == "fit":
            callbacks += [SafeMoments(), Continuation()]
        if self.subcommand == "predict":
            self.prediction_writer = PredictionWriter()
            callbacks.append(self.prediction_writer)
        return callbacks

    def _checkpoint(self) -> dict[str, Any]:
        return {"ckpt_path": self.options.ckpt_path, "weights_only": self.options.weights_only}

    def fit(self, **kwargs: Any) -> None:  # noqa: ANN401 - Trainer.fit's
        """Train, and tell what came of it, also when it is interrupted."""
        rank_zero_info(f"run folder: {shown_path(self.folder)}")
        try:
            self.trainer.fit(**kwargs, **self._checkpoint())
        except SystemExit as error:  # Lightning's end after SIGTERM and Ctrl-C
            _tell(farewell, self.folder, self.trainer, self.arguments)
            error.code = exit_code(error)
            raise
        except Exception:
            if self.trainer.global_step > 0:
                _tell(farewell, self.folder, self.trainer, self.arguments)
            raise
        _tell(summarise, self.folder, self.trainer)

    def validate(self, **kwargs: Any) -> None:  # noqa: ANN401 - Trainer.validate's
        """Evaluate, print a table and write ``results.json``."""
        self.trainer.validate(**kwargs, **self._checkpoint(), verbose=False)
        self._report()

    def test(self, **kwargs: Any) -> None:  # noqa: ANN401 - Trainer.test's
        """Evaluate, print a table and write ``results.json``."""
        self.trainer.test(**kwargs, **self._checkpoint(), verbose=False)
        self._report()

    def _report(self) -> None:
        metrics = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
        stage = "test" if self.subcommand == "test" else "validation"
        prefix = self.evaluator.prefixes[stage]
        results = {
            "command": str(self.subcommand),
            "model": self.model.policy_settings.path,
            "checkpoint": self.options.ckpt_path,
            "step": self.start.get("global_step", 0),
            "decoding": {
                **asdict(self.model.evaluation),
                "completions": self.model.eval_completions,
            },
            "sets": set_results(metrics, prefix),
            "metrics": metrics,
        }
        _tell(report_results, self.folder, results)

    def predict(self, **kwargs: Any) -> None:  # noqa: ANN401 - Trainer.predict's
        """Write completions and rewards as JSON lines."""
        self.trainer.predict(**kwargs, **self._checkpoint(), return_predictions=False)
        _tell("predictions: {}".format, self.prediction_writer.path)


@rank_zero_only
def _tell(words: Callable[..., str], *about: Any) -> None:  # noqa: ANN401 - what they are about
    """Print, on the first process, what ``words(*about)`` returns."""
    print(f"\n{words(*about)}\n", flush=True)
