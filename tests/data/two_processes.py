"""Run by test_ranks.py in an interpreter of its own: train on two processes, report per rank."""

import json
import sys
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer

from lgrpo_lightning.data import PromptGroupDataModule


class Reporter(LightningModule):
    """Writes what its rank was dealt."""

    def __init__(self, folder):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.folder = folder
        self.dealt, self.evaluated = [], []

    def steps_per_rollout(self, num_prompts):
        return 3

    def training_step(self, batch, batch_idx):
        self.dealt.append((batch.epoch, batch.rollout, batch.step, batch.indices))
        return self.weight.sum()

    def validation_step(self, batch, batch_idx):
        self.evaluated += batch.indices

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_fit_end(self):
        report = {"dealt": self.dealt, "evaluated": self.evaluated}
        (self.folder / f"{self.global_rank}.json").write_text(json.dumps(report))


def main(folder, devices, prompts_per_rollout):
    data = PromptGroupDataModule(
        [{"prompt": f"prompt {i}"} for i in range(9)],
        prompts_per_rollout=prompts_per_rollout,
        eval_path=[{"prompt": f"held out {i}"} for i in range(7)],
        eval_prompts_per_batch=prompts_per_rollout,
    )
    trainer = Trainer(
        max_epochs=2,
        devices=devices,
        strategy="ddp_spawn" if devices > 1 else "auto",
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(Reporter(folder), datamodule=data)


if __name__ == "__main__":
    root = Path(sys.argv[1])
    for devices, size in ((1, 4), (2, 2)):
        (root / str(devices)).mkdir()
        main(root / str(devices), devices, size)
