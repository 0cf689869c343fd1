"""The progress bar."""

from types import SimpleNamespace

import pytest

from lgrpo_lightning.cli.progress import RunProgressBar


def bar(max_steps, done=0, steps=0, accumulate=1, batches=100):
    progress = SimpleNamespace(current=SimpleNamespace(completed=done))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
    shown = RunProgressBar()
    shown._trainer = SimpleNamespace(
        num_training_batches=batches,
        max_steps=max_steps,
        global_step=steps,
        accumulate_grad_batches=accumulate,
        fit_loop=loop,
        progress_bar_metrics={"tok/s": 14519.188, "reward": 0.359375, "kl": 6e-6, "note": "so"},
        loggers=[],
    )
    return shown


@pytest.mark.parametrize(
    ("expected", "settings"),
    [
        (100, {"max_steps": -1}),
        (20, {"max_steps": 20}),
        (80, {"max_steps": 20, "accumulate": 4}),  # Lightning's own says 20
        (80, {"max_steps": 20, "accumulate": 4, "done": 40, "steps": 10}),  # resumed
        (100, {"max_steps": 500, "accumulate": 4}),
    ],
)
def test_it_counts_training_steps(expected, settings):
    assert bar(**settings).total_train_batches == expected


def test_figures_are_short_and_the_speed_comes_last():
    shown = bar(20)
    metrics = shown.get_metrics(shown._trainer, None)
    assert list(metrics.items()) == [
        ("reward", "0.359"),
        ("kl", "0.000"),
        ("note", "so"),
        ("tok/s", "14,519"),
    ]
