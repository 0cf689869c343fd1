"""RewardEvaluator's own cadence in training."""

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from lgrpo_callbacks import RewardEvaluator
from tests.callbacks.boring import BoringPolicy, make_trainer

ALL = {"limit_val_batches": 1.0}


def evaluated_at(evaluator):
    return [record["step"] for record in evaluator.history]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_every_n_optimizer_steps_whatever_is_accumulated(tmp_path, accumulate):
    evaluator = RewardEvaluator(every_n_steps=3)
    trainer = make_trainer(
        tmp_path, evaluator, accumulate_grad_batches=accumulate, max_epochs=4, **ALL
    )
    trainer.fit(BoringPolicy(rows=8 * accumulate))  # 4 optimizer steps an epoch
    assert evaluated_at(evaluator) == [3, 6, 9, 12, 15]


def test_it_goes_on_after_a_resume(tmp_path):
    saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    options = {"enable_checkpointing": True, "max_epochs": 2, **ALL}
    make_trainer(tmp_path, RewardEvaluator(every_n_steps=3), saver, **options).fit(
        BoringPolicy(rows=8)
    )
    evaluator = RewardEvaluator(every_n_steps=3)
    trainer = make_trainer(tmp_path, evaluator, **options)
    trainer.fit(BoringPolicy(rows=8), ckpt_path=tmp_path / "step=5.ckpt", weights_only=True)
    assert evaluated_at(evaluator) == [3, 6]


def test_a_second_fit_with_the_same_trainer_keeps_it(tmp_path):
    evaluator = RewardEvaluator(every_n_steps=2)
    trainer = make_trainer(tmp_path, evaluator, max_epochs=1, **ALL)
    trainer.fit(BoringPolicy(rows=8))
    trainer.fit_loop.max_epochs = 2
    trainer.fit(BoringPolicy(rows=8))
    assert evaluated_at(evaluator) == [2, 4, 6, 8]


@pytest.mark.parametrize(
    "options",
    [
        {"val_check_interval": 2},
        {"val_check_interval": 1},
        {"val_check_interval": 0.5},
        {"check_val_every_n_epoch": 2},
        {"val_check_interval": 4, "check_val_every_n_epoch": None},
    ],
)
def test_two_cadences_are_refused(tmp_path, options):
    trainer = make_trainer(tmp_path, RewardEvaluator(every_n_steps=3), **ALL, **options)
    with pytest.raises(ValueError, match=r"every_n_steps=3\) means a val_check_interval of 3"):
        trainer.fit(BoringPolicy(rows=8))


def test_the_same_cadence_twice_is_no_contradiction(tmp_path):
    evaluators = [
        RewardEvaluator(every_n_steps=3),
        RewardEvaluator(every_n_steps=3, prefix="again"),
    ]
    options = {"val_check_interval": 3, "check_val_every_n_epoch": None, "max_epochs": 1}
    make_trainer(tmp_path, *evaluators, **ALL, **options).fit(BoringPolicy(rows=8))
    assert [evaluated_at(evaluator) for evaluator in evaluators] == [[3], [3]]


def test_a_trial_run_keeps_its_own(tmp_path):
    evaluator = RewardEvaluator(every_n_steps=3)
    make_trainer(tmp_path, evaluator, fast_dev_run=True).fit(BoringPolicy(rows=8))
    assert evaluated_at(evaluator) == [1]


def test_epochs_that_end_within_a_step_are_refused(tmp_path):
    options = {"accumulate_grad_batches": 2, **ALL}
    trainer = make_trainer(tmp_path, RewardEvaluator(every_n_steps=1), max_epochs=2, **options)
    with pytest.raises(ValueError, match=r"an epoch has 3 batches.*set limit_train_batches to 2"):
        trainer.fit(BoringPolicy(rows=6))
    evaluator = RewardEvaluator(every_n_steps=1)
    trainer = make_trainer(tmp_path, evaluator, max_epochs=2, limit_train_batches=2, **options)
    trainer.fit(BoringPolicy(rows=6))
    assert evaluated_at(evaluator) == [1, 2]


def test_a_module_that_optimises_by_itself_is_refused(tmp_path):
    module = BoringPolicy(rows=8)
    module.automatic_optimization = False
    trainer = make_trainer(tmp_path, RewardEvaluator(every_n_steps=1), **ALL)
    with pytest.raises(ValueError, match="BoringPolicy optimises by itself"):
        trainer.fit(module)


def test_validation_alone_is_not_concerned(tmp_path):
    evaluator = RewardEvaluator(every_n_steps=3)
    trainer = make_trainer(tmp_path, evaluator, val_check_interval=2, **ALL)
    trainer.validate(BoringPolicy(), verbose=False)
    assert evaluated_at(evaluator) == [0]
