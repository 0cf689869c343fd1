"""Train and look: ``python -m examples.reinforce.train --root runs/reinforce``."""

import argparse

from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from lgrpo_callbacks import CompletionLogger, KLTracker, ProcessTreeMonitor, RewardEvaluator

from .module import Reinforce
from .task import Words

WORDS_PER_STEP = 16


def main() -> None:
    """Train the policy and print what evaluation says before and after."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", default="runs/reinforce", help="Folder for everything written.")
    parser.add_argument("--steps", type=int, default=200, help="Optimizer steps.")
    args = parser.parse_args()
    seed_everything(0)
    evaluator = RewardEvaluator(k=[1, 4])
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=CSVLogger(args.root, name="", version=""),
        log_every_n_steps=10,
        num_sanity_val_steps=-1,  # evaluate once before training
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        callbacks=[
            KLTracker(),
            evaluator,
            CompletionLogger(every_n_steps=100, max_rows=4, to_terminal=True),
            ProcessTreeMonitor(every_n_steps=100, max_trees=2),
        ],
    )
    trainer.fit(
        Reinforce(),
        DataLoader(Words(WORDS_PER_STEP * args.steps, seed=1), batch_size=WORDS_PER_STEP),
        DataLoader(Words(64, seed=2), batch_size=64),
    )
    print(evaluator.summary())


if __name__ == "__main__":
    main()
