"""A module with weights, whose loss depends on a reference of them."""

import copy

import torch
from lightning.pytorch import LightningModule
from torch.utils.data import DataLoader


class SaveableSequential(torch.nn.Sequential):
    """Can be saved like a Hugging Face model."""

    def save_pretrained(self, folder):
        torch.save(self.state_dict(), folder / "weights.pt")


class RegressionPolicy(LightningModule):
    """A linear policy that learns numbers and is held back by its reference."""

    def __init__(self, rows=12, batch_size=2):
        super().__init__()
        torch.manual_seed(0)
        self.policy = SaveableSequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
        frozen = copy.deepcopy(self.policy).eval().requires_grad_(False)
        self.reference = torch.nn.ModuleDict({"frozen": frozen})
        self.x = torch.randn(rows, 2)
        self.batch_size = batch_size

    def training_step(self, batch, batch_idx):
        self.policy.eval()  # batches differ with the number of processes
        out, ref = self.policy(self.x[batch]), self.reference["frozen"](self.x[batch])
        return (out - 1).square().mean() + (out - ref).square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("loss", self.training_step(batch, batch_idx), sync_dist=True)

    def configure_optimizers(self):
        return torch.optim.SGD(self.policy.parameters(), lr=0.1)

    def train_dataloader(self):
        mine = torch.arange(len(self.x))[self.trainer.global_rank :: self.trainer.world_size]
        return DataLoader(mine, batch_size=self.batch_size)

    val_dataloader = train_dataloader

    def state_dict(self, *args, **kwargs):
        state = super().state_dict(*args, **kwargs)
        return {name: value for name, value in state.items() if not name.startswith("reference.")}

    def load_state_dict(self, state_dict, strict=True, assign=False):
        return super().load_state_dict(state_dict, strict=False, assign=assign)


def weights(model):
    """A copy of a model's weights."""
    return {name: value.clone() for name, value in model.state_dict().items()}
