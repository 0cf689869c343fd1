"""What the tests of the data room share: rows, a module that records its batches, a trainer."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from lgrpo_lightning.data import PromptBatch, PromptSet

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


class PlainRecorder(LightningModule):
    """Trains one number and remembers what it was dealt."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.dealt = []
        self.evaluated = []

    def training_step(self, batch, batch_idx):
        assert isinstance(batch, PromptBatch)
        self.dealt.append((batch.epoch, batch.rollout, batch.step, tuple(batch.indices)))
        return self.weight.sum()

    def validation_step(self, batch, batch_idx):
        self.evaluated += zip(batch.sources, batch.indices, strict=True)

    def test_step(self, batch, batch_idx):
        self.validation_step(batch, batch_idx)

    def predict_step(self, batch, batch_idx):
        return batch.indices

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Recorder(PlainRecorder):
    """Makes several training steps of each batch, and asks for it."""

    def __init__(self, steps=3):
        super().__init__()
        self.steps = steps

    def steps_per_rollout(self, num_prompts):
        return self.steps


@pytest.fixture
def recorder():
    return Recorder


@pytest.fixture
def plain_recorder():
    return PlainRecorder


@pytest.fixture
def trainer(tmp_path):
    """Makes quiet trainers; without callbacks nothing is written."""

    def make(**options):
        options.setdefault("enable_checkpointing", "callbacks" in options)
        return Trainer(
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=tmp_path,
            **options,
        )

    return make


@pytest.fixture
def rows():
    """Makes rows with distinct prompts."""
    return lambda number: [{"prompt": f"prompt {i}", "answer": i} for i in range(number)]


@pytest.fixture
def prompts(rows):
    """Makes a prompt set of so many prompts."""
    return lambda number: PromptSet.load(rows(number))


@pytest.fixture
def real_data():
    """Gives the path of a real data set, or skips the test where there is none."""

    def find(name):
        path = DATA / name
        if not path.is_file():
            pytest.skip(f"{name} is not in {DATA}")
        return str(path)

    return find
