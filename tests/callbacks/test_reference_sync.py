import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import FSDPStrategy

from lgrpo_callbacks import ReferenceSync
from lgrpo_callbacks.reference_sync import move_towards
from tests.callbacks.boring import make_trainer
from tests.callbacks.weights import RegressionPolicy, weights


class Recorder(Callback):
    """Keeps policy and reference as they are after every optimizer step."""

    def __init__(self):
        self.policies, self.references = {}, {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.policies[trainer.global_step] = weights(pl_module.policy)
        self.references[trainer.global_step] = weights(pl_module.reference["frozen"])


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_the_reference_follows_at_its_cadence_of_optimizer_steps(tmp_path, alpha):
    module, recorder = RegressionPolicy(rows=24), Recorder()
    start = weights(module.reference["frozen"])
    sync = ReferenceSync(every_n_steps=2, alpha=alpha)
    make_trainer(tmp_path, sync, recorder, accumulate_grad_batches=2).fit(module)
    assert list(recorder.references) == [0, 1, 2, 3, 4, 5, 6]
    wanted = start
    for step in range(7):
        if step in (2, 4, 6):
            wanted = {
                name: alpha * recorder.policies[step][name] + (1 - alpha) * value
                if value.is_floating_point()
                else value
                for name, value in wanted.items()
            }
        assert_equal(recorder.references[step], wanted)
    assert not torch.equal(wanted["0.weight"], start["0.weight"])
    assert not any(p.requires_grad for p in module.reference["frozen"].parameters())


def test_counts_are_copied_and_other_types_converted():
    policy, reference = (torch.nn.BatchNorm1d(1) for _ in range(2))
    policy.num_batches_tracked.fill_(7)
    policy.running_mean.fill_(1.0)
    move_towards(reference.to(torch.bfloat16), policy, alpha=0.5)
    assert reference.num_batches_tracked == 7
    assert reference.running_mean.item() == 0.5


def fit(folder, steps, every_n_steps, ckpt_path=None):
    module = RegressionPolicy(rows=4)  # two steps in an epoch
    saver = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    sync = ReferenceSync(every_n_steps=every_n_steps, alpha=0.4)
    trainer = make_trainer(
        folder, sync, saver, max_epochs=-1, max_steps=steps, enable_checkpointing=True
    )
    trainer.fit(module, ckpt_path=ckpt_path, weights_only=True)
    return weights(module.policy), weights(module.reference["frozen"])


@pytest.mark.parametrize("every_n_steps", [2, 3])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, every_n_steps):
    whole = fit(tmp_path / "whole", 8, every_n_steps)
    resumed = fit(tmp_path / "again", 8, every_n_steps, tmp_path / "whole" / "step=4.ckpt")
    for one, other in zip(whole, resumed, strict=True):
        assert all(torch.equal(value, other[name]) for name, value in one.items())
    # A checkpoint before the first update leaves the initial reference to the module.
    first = torch.load(tmp_path / "whole" / "step=1.ckpt", weights_only=True)
    later = torch.load(tmp_path / "again" / "step=6.ckpt", weights_only=True)
    assert first["callbacks"]["ReferenceSync"] == {"reference": None}
    assert set(later["callbacks"]["ReferenceSync"]["reference"]) == set(whole[1])


def test_another_fit_with_the_same_callback_starts_from_the_module_it_gets(tmp_path):
    sync = ReferenceSync(every_n_steps=1)
    make_trainer(tmp_path, sync).fit(RegressionPolicy())
    module = RegressionPolicy()
    start = weights(module.reference["frozen"])
    trainer = make_trainer(tmp_path, sync, max_steps=0)
    trainer.fit(module)
    assert all(torch.equal(v, start[n]) for n, v in weights(module.reference["frozen"]).items())


def test_the_two_models_are_found_by_name(tmp_path):
    module = RegressionPolicy()
    module.actor, module.anchor = module.policy, module.reference["frozen"]
    sync = ReferenceSync(every_n_steps=6, policy="actor", reference="anchor")
    make_trainer(tmp_path, sync).fit(module)
    assert torch.equal(module.anchor[0].weight, module.actor[0].weight)


def test_what_cannot_follow_is_refused_with_the_reason(tmp_path):
    module = RegressionPolicy()
    with pytest.raises(ValueError, match="RegressionPolicy has no attribute 'actor'"):
        make_trainer(tmp_path, ReferenceSync(1, policy="actor")).fit(module)
    module.reference = torch.nn.Module()
    module.reference.frozen = None  # as with a LoRA adapter
    with pytest.raises(ValueError, match=r"is None.*LoRA adapter .* train all weights"):
        make_trainer(tmp_path, ReferenceSync(1)).fit(module)
    module.reference = None
    with pytest.raises(ValueError, match=r"is None.*set kl_coef above 0"):
        make_trainer(tmp_path, ReferenceSync(1)).fit(module)
    module.reference = torch.nn.ModuleDict({"frozen": torch.nn.Linear(2, 2)})
    with pytest.raises(ValueError, match=r"must have the same weights, but differ in \d+"):
        make_trainer(tmp_path, ReferenceSync(1)).fit(module)


def test_a_split_model_is_refused(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.strategy.__class__ = type("Split", (FSDPStrategy,), {})
    with pytest.raises(ValueError, match=r"ReferenceSync needs the whole model .* Split"):
        ReferenceSync(1).on_fit_start(trainer, RegressionPolicy())


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"every_n_steps": 0}, "every_n_steps must"),
        ({"every_n_steps": 1, "alpha": 0.0}, "alpha must"),
        ({"every_n_steps": 1, "alpha": 1.5}, "alpha must"),
        ({"every_n_steps": 1, "alpha": float("nan")}, "alpha must"),
    ],
)
def test_arguments_out_of_range_are_refused(options, named):
    with pytest.raises(ValueError, match=named):
        ReferenceSync(**options)
