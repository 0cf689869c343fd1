"""The command line, ``lgrpo fit|validate|test|predict``: LightningCLI with run folders."""

import json
import logging
import os
import sys
import traceback
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

import lgrpo_callbacks
from lgrpo_lightning.data import PromptGroupDataModule
from lgrpo_lightning.module import LambdaGRPO
from lgrpo_lightning.run_folder import last_checkpoint, new_run_folder
from lgrpo_lightning.run_summary import summarise

log = logging.getLogger(__name__)

_RUN_FOLDER = "LGRPO_RUN_FOLDER"


class LambdaCLI(LightningCLI):
    """LightningCLI for :class:`LambdaGRPO` and :class:`PromptGroupDataModule`.

    Differs from LightningCLI in that every run gets a folder of its own, ``--ckpt_path last`` finds
    the newest checkpoint of the runs of the same name, the command line wins over hyperparameters
    in a checkpoint, and optimizer and scheduler are arguments of the model.
    """

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401 - LightningCLI's arguments
        super().__init__(
            LambdaGRPO,
            PromptGroupDataModule,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            trainer_defaults={"log_every_n_steps": 1},
            parser_kwargs={"description": "Fine-tune a causal language model with λ-GRPO."},
            **kwargs,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add where runs are kept."""
        parser.add_argument("--runs", type=str, default="runs", help="Folder that holds all runs.")
        parser.add_argument(
            "--name",
            type=str | None,
            default=None,
            help="Name of the experiment; by default that of the first config file.",
        )
        parser.add_argument(
            "--threads",
            type=int | None,
            default=None,
            help="CPU threads of torch per process; by default torch's own choice.",
        )

    def before_instantiate_classes(self) -> None:
        """Limit torch's threads before it uses any."""
        threads = self._get(self.config, "threads")
        if threads is not None:
            if threads < 1:
                raise ValueError(f"--threads must be at least 1, got {threads}")
            torch.set_num_threads(threads)

    def _parse_ckpt_path(self) -> None:
        """Find ``last``; keep hyperparameters as the command line has them.

        LightningCLI would let those in the checkpoint override what was just typed.
        """
        options = self.config.get(self.config.get("subcommand", ""), {})
        if options.get("ckpt_path") == "last":
            path = last_checkpoint(Path(options.runs), _experiment(options))
            rank_zero_info(f"resuming from {path}")
            options["ckpt_path"] = str(path)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:  # noqa: ANN401 - LightningCLI's
        """Make the run's folder and the trainer that writes into it."""
        self.folder = self._folder()
        config = self._get(self.config_init, "trainer")
        kwargs.setdefault("default_root_dir", str(self.folder))
        if config.get("logger") in (None, True) and not config.get("fast_dev_run"):
            kwargs["logger"] = [
                logger(str(self.folder), name="", version="")
                for logger in (TensorBoardLogger, CSVLogger)
            ]
        return super().instantiate_trainer(**kwargs)

    def _folder(self) -> Path:
        """The run's folder, the same in all processes that this one launches."""
        if _RUN_FOLDER not in os.environ:
            options = self.config[self.subcommand]
            folder = new_run_folder(
                Path(options.runs), _experiment(options), str(self.subcommand), datetime.now()
            )
            os.environ[_RUN_FOLDER] = str(folder)
        return Path(os.environ[_RUN_FOLDER])

    def after_fit(self) -> None:
        """Tell where the run is and what it improved."""
        _print(summarise(self.folder, self.trainer))

    def predict(self, **kwargs: Any) -> None:  # noqa: ANN401 - Trainer.predict's
        """Write completions and rewards as JSON lines into the run's folder."""
        batches: Any = self.trainer.predict(**kwargs) or []
        path = self.folder / f"predictions-rank-{self.trainer.global_rank}.jsonl"
        with path.open("x", encoding="utf-8") as file:
            for batch in batches:
                file.writelines(json.dumps(row) + "\n" for row in _prediction_rows(batch))
        _print(f"predictions are in {path}")


def main(args: list[str] | None = None) -> None:
    """Run the command line.

    A mistake in the configuration is reported in one line, without a traceback.
    """
    logging.basicConfig(format="%(message)s")
    logging.getLogger("lgrpo_lightning").setLevel(logging.INFO)
    # The frozen reference is meant to be in eval mode.
    warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
    # The run's folder is new; only the loggers of this run write into it.
    warnings.filterwarnings("ignore", message="Experiment logs directory")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    try:
        LambdaCLI(args=args)
    except ValueError as error:
        if not _is_ours(error):
            raise
        sys.exit(f"lgrpo: {error}")


def _is_ours(error: ValueError) -> bool:
    """Whether this project raised the error, so that its message says what to do."""
    frames = traceback.extract_tb(error.__traceback__)
    homes = [str(Path(__file__).parent), str(Path(lgrpo_callbacks.__file__).parent)]
    return any(frames[-1].filename.startswith(home) for home in homes)


def _experiment(options: Any) -> str:  # noqa: ANN401 - jsonargparse's Namespace
    """The experiment's name: as given, or that of the first config file."""
    if options.name:
        return str(options.name)
    configs = options.config or []
    return Path(str(configs[0])).stem if configs else "run"


def _prediction_rows(batch: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for every prompt of a predict_step's output."""
    return [
        {
            "prompt": prompt,
            "source": source,
            "completions": completions,
            "rewards": rewards.tolist(),
            "reward_breakdown": {
                name: values[row].tolist() for name, values in batch["reward_breakdown"].items()
            },
        }
        for row, (prompt, source, completions, rewards) in enumerate(
            zip(
                batch["prompts"],
                batch["sources"],
                batch["completions"],
                batch["rewards"],
                strict=True,
            )
        )
    ]


@rank_zero_only
def _print(text: str) -> None:
    print(f"\n{text}\n")


if __name__ == "__main__":
    main()
