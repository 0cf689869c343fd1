import csv
import re
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lgrpo_callbacks import KLTracker
from lgrpo_callbacks.kl_controller import KLController
from lgrpo_callbacks.kl_terms import position_bin
from tests.callbacks.boring import BoringPolicy, make_trainer


class Recorder(Callback):
    """Keeps what reached the trainer's metrics after each optimizer step."""

    def __init__(self):
        self.steps = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps.append((trainer.global_step, dict(trainer.callback_metrics)))


def expected_means(module, rows):
    """The slow and obvious way: token by token in Python floats."""
    sums = {"ref_k1": 0.0, "ref_k3": 0.0, "sampler_k2": 0.0, "outside_clip": 0.0}
    count = 0
    for row in rows:
        for t in range(module.lengths[row]):
            lp, old = float(module.logprobs[row, t]), float(module.old_logprobs[row, t])
            ref = float(module.ref_logprobs[row, t])
            ratio = torch.tensor(lp - old).exp().item()
            sums["ref_k1"] += ratio * (lp - ref)
            sums["ref_k3"] += ratio * (torch.tensor(ref - lp).exp().item() - 1 + lp - ref)
            sums["sampler_k2"] += ratio * (lp - old) ** 2 / 2
            sums["outside_clip"] += not 0.8 <= ratio <= 1.2
            count += 1
    return {name: value / count for name, value in sums.items()}


def read_csv(folder):
    with (folder / "metrics.csv").open() as file:
        return [row for row in csv.DictReader(file) if row.get("kl/ref")]


def test_every_optimizer_step_is_logged_once_over_all_its_micro_batches(tmp_path):
    logger = CSVLogger(tmp_path)
    module = BoringPolicy(rows=20, batch_size=2)
    trainer = make_trainer(tmp_path, KLTracker(), logger=logger, accumulate_grad_batches=3)
    trainer.fit(module)
    rows = read_csv(tmp_path / "lightning_logs" / "version_0")
    # 10 micro-batches: three whole optimizer steps, and a last one of a single micro-batch.
    assert trainer.global_step == 4
    assert [int(row["step"]) for row in rows] == [0, 1, 2, 3]
    for index, row in enumerate(rows):
        wanted = expected_means(module, range(6 * index, min(6 * index + 6, 20)))
        for name, value in wanted.items():
            assert float(row[f"kl/{name}"]) == pytest.approx(value, rel=1e-4, abs=1e-6)
        assert row["kl/ref"] == row["kl/ref_k3"]
        assert row["kl/sampler"] == row["kl/sampler_k3"]


def test_kl_is_on_the_progress_bar(tmp_path):
    trainer = make_trainer(tmp_path, KLTracker())
    trainer.fit(BoringPolicy())
    assert trainer.progress_bar_metrics["kl"] == pytest.approx(
        trainer.callback_metrics["kl/ref"].item()
    )


def test_without_a_reference_only_the_sampler_is_compared(tmp_path):
    trainer = make_trainer(tmp_path, KLTracker(position_bins=2))
    trainer.fit(BoringPolicy(reference=False))
    names = set(trainer.callback_metrics)
    assert "kl/sampler_k3" in names
    assert "kl/sampler_part_1_of_2" in names
    assert not any("ref" in name for name in names)
    assert "kl/entropy" not in names


def test_entropy_is_averaged_over_tokens_where_given(tmp_path):
    module = BoringPolicy(rows=2)
    entropy = torch.arange(16.0).reshape(2, 8)
    module.extra = {"entropy": entropy}
    trainer = make_trainer(tmp_path, KLTracker())
    trainer.fit(module)
    wanted = entropy[module.mask].mean().item()
    assert trainer.callback_metrics["kl/entropy"].item() == pytest.approx(wanted)


def test_position_bins_are_equal_parts_of_each_completion():
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 1]]).bool()
    bins = position_bin(mask, 2)
    assert [row[kept].tolist() for row, kept in zip(bins, mask, strict=True)] == [
        [0, 0, 1, 1],
        [0, 1],
        [0, 0, 0, 1, 1],
    ]


def test_kl_by_position_sees_a_late_drift_and_logs_nan_for_an_empty_part(tmp_path):
    module = BoringPolicy(rows=4, batch_size=2)
    module.logprobs = torch.full((4, 8), -1.0)
    module.old_logprobs = module.logprobs.clone()
    module.ref_logprobs = module.logprobs.clone()
    module.ref_logprobs[:, 4:] -= 1.0
    module.mask = torch.ones(4, 8, dtype=torch.bool)
    module.mask[2:, 1:] = False  # completions of one token fill only the first part
    recorder = Recorder()
    make_trainer(tmp_path, KLTracker(position_bins=2), recorder).fit(module)
    first, second = (metrics for _, metrics in recorder.steps)
    assert first["kl/ref_part_1_of_2"] == 0
    assert first["kl/ref_part_2_of_2"].item() == pytest.approx(torch.tensor(-1.0).exp().item())
    assert second["kl/ref_part_2_of_2"].isnan()


def test_stop_above_stops_after_the_step_and_says_why(tmp_path):
    module = BoringPolicy(rows=24, batch_size=2)
    module.ref_logprobs = module.logprobs.nan_to_num()
    module.ref_logprobs[12:] += 3.0
    tracker = KLTracker(stop_above=1.0)
    trainer = make_trainer(tmp_path, tracker, accumulate_grad_batches=3, max_epochs=5)
    trainer.fit(module)
    assert trainer.global_step == 3
    assert re.search(r"optimizer step 3.*above stop_above=1.0", tracker.stop_reason)


def test_the_controller_is_ppos():
    controller = KLController(target=0.1, horizon=100)
    assert controller.next_coefficient(1.0, kl=0.1, completions=10) == 1.0
    assert controller.next_coefficient(1.0, kl=0.11, completions=10) == pytest.approx(1.01)
    assert controller.next_coefficient(1.0, kl=9.0, completions=10) == pytest.approx(1.02)
    assert controller.next_coefficient(1.0, kl=0.0, completions=10) == pytest.approx(0.98)
    assert controller.next_coefficient(1.0, kl=0.0, completions=10**6) == 0.5


def test_the_coefficient_is_steered_every_step_and_survives_a_resume(tmp_path):
    def fit(folder, steps, ckpt=None):
        module = BoringPolicy(rows=24, batch_size=2)
        saver = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=2, save_top_k=-1)
        recorder = Recorder()
        trainer = make_trainer(
            tmp_path,
            KLTracker(target=0.01, horizon=100),
            saver,
            recorder,
            accumulate_grad_batches=2,
            enable_checkpointing=True,
            max_steps=steps,
        )
        trainer.fit(module, ckpt_path=ckpt, weights_only=True)
        return module, recorder

    whole, recorder = fit(tmp_path / "whole", steps=6)
    # The KL is far above the target: the error is 0.2 for 4 completions per optimizer step.
    assert whole.loss.kl_coef == pytest.approx(0.1 * (1 + 0.2 * 4 / 100) ** 6)
    assert recorder.steps[-1][1]["kl/coef"].item() == pytest.approx(whole.loss.kl_coef)
    resumed, _ = fit(tmp_path / "resumed", steps=6, ckpt=tmp_path / "whole" / "step=2.ckpt")
    assert resumed.loss.kl_coef == whole.loss.kl_coef


@pytest.mark.parametrize(
    ("place", "named"),
    [("ref_logprobs", "kl/ref_k1"), ("logprobs", "kl/sampler_k1")],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_name_step_and_prompt(tmp_path, place, named, value):
    module = BoringPolicy(rows=24, batch_size=2)
    getattr(module, place)[15, 0] = value
    trainer = make_trainer(tmp_path, KLTracker(), accumulate_grad_batches=3)
    with pytest.raises(FloatingPointError) as raised:
        trainer.fit(module)
    message = str(raised.value)
    assert named in message
    assert "optimizer step 3" in message
    assert "'prompt 15' (rank 0)" in message
    assert "prompt 14" not in message


def test_a_broken_loss_names_the_micro_batch_or_the_broken_advantage(tmp_path):
    module = BoringPolicy(rows=4, batch_size=2)
    module.extra = {"loss": torch.tensor(float("nan"), requires_grad=True)}
    with pytest.raises(FloatingPointError, match=r"in loss .*'prompt 0'.*'prompt 1'"):
        make_trainer(tmp_path, KLTracker()).fit(module)
    module.advantages[1] = float("nan")
    with pytest.raises(FloatingPointError, match=r"in loss .*from 'prompt 1'"):
        make_trainer(tmp_path, KLTracker()).fit(module)
    module.left_out = ("prompts",)
    with pytest.raises(FloatingPointError, match=r"from completion 1 \(rank 0\)"):
        make_trainer(tmp_path, KLTracker()).fit(module)


@pytest.mark.parametrize("key", ["logprobs", "old_logprobs", "ref_logprobs", "mask"])
def test_a_missing_key_is_named_with_the_method_that_must_return_it(tmp_path, key):
    module = BoringPolicy()
    module.left_out = (key,)
    with pytest.raises(ValueError, match=f"KLTracker needs '{key}'.*BoringPolicy.training_step"):
        make_trainer(tmp_path, KLTracker()).fit(module)


def test_a_module_that_returns_no_dict_is_named(tmp_path):
    module = BoringPolicy()
    module.training_step = lambda batch, batch_idx: module.weight.square()
    with pytest.raises(ValueError, match=r"KLTracker needs 'logprobs', .*BoringPolicy"):
        make_trainer(tmp_path, KLTracker()).fit(module)


def test_tensors_of_another_shape_are_refused(tmp_path):
    module = BoringPolicy()
    module.extra = {"old_logprobs": torch.zeros(2, 1)}
    with pytest.raises(ValueError, match=r"old_logprobs .* must have the mask's shape \[2, 8\]"):
        make_trainer(tmp_path, KLTracker()).fit(module)


@pytest.mark.parametrize("options", [{"stop_above": 0.1}, {"target": 0.1}])
def test_what_needs_a_reference_says_so(tmp_path, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}=.* needs the KL to the reference"):
        make_trainer(tmp_path, KLTracker(**options)).fit(BoringPolicy(reference=False))


def test_a_target_needs_a_positive_coefficient_to_steer(tmp_path):
    module = BoringPolicy()
    module.loss = SimpleNamespace(kl_coef=0.0)
    with pytest.raises(ValueError, match="must start above 0"):
        make_trainer(tmp_path, KLTracker(target=0.1)).fit(module)
    module.loss = None
    with pytest.raises(ValueError, match="BoringPolicy does not have"):
        make_trainer(tmp_path, KLTracker(target=0.1)).fit(module)


@pytest.mark.parametrize(
    "options",
    [
        {"stop_above": 0.0},
        {"target": -1.0},
        {"target": 0.1, "horizon": 0},
        {"position_bins": 0},
        {"clip_low": 1.5},
        {"clip_high": -0.1},
        {"stop_above": float("nan")},
    ],
)
def test_arguments_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=f"{list(options)[-1]} must be"):
        KLTracker(**options)
