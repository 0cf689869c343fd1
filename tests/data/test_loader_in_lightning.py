"""The loader under the real Trainer: sizes, epochs, overfitting, and every moment of resuming."""

import warnings

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lgrpo_lightning.data import PromptGroupDataModule

ROLLOUTS, STEPS = 3, 3  # of one epoch: 7 prompts, 2 in a rollout

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]


@pytest.fixture
def data(rows):
    def make(**options):
        options.setdefault("eval_path", rows(4))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the same prompts on both sides, on purpose
            module = PromptGroupDataModule(rows(7), prompts_per_rollout=2, **options)
            module.setup("fit")
        return module

    return make


def test_epochs_deal_whole_rollouts_in_new_orders(data, recorder, trainer):
    model = recorder(STEPS)
    trainer(max_epochs=3).fit(model, datamodule=data())
    assert [(epoch, rollout, step) for epoch, rollout, step, _ in model.dealt] == [
        (e, r, s) for e in range(3) for r in range(ROLLOUTS) for s in range(STEPS)
    ]
    for rollout in range(0, len(model.dealt), STEPS):
        assert len({indices for *_, indices in model.dealt[rollout : rollout + STEPS]}) == 1
    orders = [tuple(i for e, _, _, i in model.dealt if e == epoch) for epoch in range(3)]
    assert len(set(orders)) == 3


def test_a_module_without_rollouts_gets_every_batch_once(data, plain_recorder, trainer):
    model = plain_recorder()
    trainer(max_epochs=1).fit(model, datamodule=data())
    assert [step for *_, step, _ in model.dealt] == [0] * ROLLOUTS


def test_limits_and_fast_dev_run(data, recorder, trainer):
    model = recorder(STEPS)
    trainer(max_epochs=2, limit_train_batches=4).fit(model, datamodule=data())
    assert [epoch for epoch, *_ in model.dealt] == [0] * 4 + [1] * 4
    model = recorder(STEPS)
    trainer(fast_dev_run=2).fit(model, datamodule=data())
    assert len(model.dealt) == 2


def test_overfitting_repeats_the_same_prompts_without_a_warning(data, recorder, trainer):
    model = recorder(STEPS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(max_epochs=3, overfit_batches=6).fit(model, datamodule=data())
    assert not [w for w in caught if "overfit" in str(w.message)]
    assert [indices for *_, indices in model.dealt] == [(0, 1)] * 3 + [(2, 3)] * 3 + (
        [(0, 1)] * 3 + [(2, 3)] * 3
    ) * 2
    assert {epoch for epoch, *_ in model.dealt} == {0, 1, 2}


@pytest.mark.parametrize("precision", ["32-true", "bf16-true", "64-true"])
def test_batches_pass_through_every_precision(precision, data, recorder, trainer):
    model = recorder(1)
    trainer(max_steps=1, precision=precision).fit(model, datamodule=data())
    assert len(model.dealt) == 1


def test_evaluation_in_every_stage(data, recorder, trainer):
    model, module, run = recorder(STEPS), data(eval_prompts_per_batch=3), trainer(max_epochs=2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run.fit(model, datamodule=module)
        assert model.evaluated == [("memory", i) for i in range(4)] * 2
        model.evaluated.clear()
        run.validate(model, datamodule=module)
        run.test(model, datamodule=module)
        assert model.evaluated == [("memory", i) for i in range(4)] * 2
        assert run.predict(model, datamodule=module) == [[0, 1, 2], [3]]
    assert not [w for w in caught if "shuffl" in str(w.message)]


def test_without_evaluation_prompts_training_runs(data, recorder, trainer):
    model = recorder(1)
    trainer(max_epochs=1).fit(model, datamodule=data(eval_path=None))
    assert len(model.dealt) == ROLLOUTS
    assert model.evaluated == []


def checkpoints(folder):
    """Save after every step, after every validation and at the end of every epoch."""
    every = {"dirpath": folder, "save_top_k": -1}
    return [
        ModelCheckpoint(filename="{step}-batch", every_n_train_steps=1, **every),
        ModelCheckpoint(filename="{step}-epoch", save_on_train_epoch_end=True, **every),
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"max_epochs": 2},
        {"max_epochs": 2, "limit_train_batches": 5},
        {"max_steps": 18},
        {"max_steps": 18, "val_check_interval": 4},
        {"max_steps": 12, "limit_train_batches": 6, "accumulate_grad_batches": 2},
    ],
)
def test_a_run_resumed_from_any_checkpoint_gets_the_remaining_batches(
    options, data, recorder, trainer, tmp_path
):
    whole = recorder(STEPS)
    trainer(**options, callbacks=checkpoints(tmp_path)).fit(whole, datamodule=data())
    files = sorted(tmp_path.glob("*.ckpt"))
    assert len(files) > options.get("max_steps", 10) // options.get("accumulate_grad_batches", 2)
    for file in files:
        loops = torch.load(file, weights_only=True)["loops"]["fit_loop"]
        done = loops["epoch_loop.batch_progress"]["total"]["ready"]
        model = recorder(STEPS)
        trainer(**options).fit(model, datamodule=data(), ckpt_path=file)
        assert model.dealt == whole.dealt[done:], file.name


@pytest.mark.parametrize("stop", [4, 9, 10])
def test_a_finished_run_can_be_extended(stop, data, recorder, trainer, tmp_path):
    whole = recorder(STEPS)
    trainer(max_steps=20).fit(whole, datamodule=data())
    dealt, path = [], None
    for until in (stop, stop + 5, 20):
        model = recorder(STEPS)
        run = trainer(max_steps=until, callbacks=checkpoints(tmp_path / str(until)))
        run.fit(model, datamodule=data(), ckpt_path=path)
        dealt += model.dealt
        path = tmp_path / str(until) / f"step={until}-epoch.ckpt"
    assert dealt == whole.dealt


def test_a_checkpoint_of_other_batch_sizes_is_refused(data, recorder, trainer, tmp_path):
    trainer(max_steps=2, callbacks=checkpoints(tmp_path)).fit(recorder(STEPS), datamodule=data())
    with pytest.raises(ValueError, match="steps_per_rollout was 3 and is 2"):
        trainer(max_steps=4).fit(
            recorder(2), datamodule=data(), ckpt_path=tmp_path / "step=2-batch.ckpt"
        )
