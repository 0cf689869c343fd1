"""``lgrpo memory``: options of a run, told apart from its own, and the table."""

import pytest

from lgrpo_lightning.cli.memory import case_of, options_of
from tests.cli.running import ROOT, lgrpo

QUICKSTART = ("-c", str(ROOT / "configs" / "quickstart.yaml"))
MODEL = ("--model.policy.path", str(ROOT / "assets" / "tiny-addition"))
DDP, FSDP2 = (("-c", str(ROOT / "configs" / f"{name}.yaml")) for name in ("ddp", "fsdp2"))


def case(*arguments, prompt_tokens=15):
    options = options_of([*QUICKSTART, *MODEL, *arguments]).as_dict()
    return case_of(options, prompt_tokens, None, 0.0)


def test_the_table_of_the_quickstart(capsys):
    outcome = lgrpo("memory", *QUICKSTART, *MODEL, "--prompt_tokens", 15)
    assert outcome.code == 0, outcome.err
    assert "memory of one process (one, 32-true, cpu), prompts of 15 and completions of 64" in (
        outcome.out
    )
    lines = [line for line in outcome.out.splitlines() if line.startswith(("weights", "peak"))]
    assert lines[0].split() == ["weights", "0.4", "MiB", "always"]
    assert lines[1].split()[-2:] == ["training", "step"]


def test_the_settings_that_count_are_those_of_the_run():
    found = case("--model.micro_batch_size", "16", "--model.sampling.max_new_tokens", "48")
    assert (found.num_prompts, found.group_size, found.micro_batch_size) == (16, 8, 16)
    assert (found.completion_tokens, found.sampler_rows) == (48, 200)  # of an evaluation
    assert (found.engine, found.sampler, found.optimizer_values) == ("tree", "shared_prefix", 2)
    assert found.has_reference
    assert not case("--model.loss.kl_coef", "0").has_reference
    sgd = case("--model.optimizer", "torch.optim.SGD", "--model.optimizer.init_args.lr", "1")
    assert sgd.optimizer_values == 0


def test_processes_and_strategies():
    both = case(*FSDP2, "--trainer.devices", "8", "--trainer.num_nodes", "4")
    assert (both.strategy, both.processes, both.device) == ("fsdp2", 32, "cuda")
    assert (both.sampler, both.precision) == ("hf", "bf16-mixed")
    assert case(*DDP, "--trainer.devices", "2").strategy == "ddp"
    assert case("--trainer.devices", "[0, 1]").processes == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--prompt_tokens", 0), "--prompt_tokens must be at least 1, got 0"),
        (("--shared", 1), "--shared must be in [0, 1), got 1.0"),
        (("--trainer.strategy", "deepspeed"), "trainer.strategy deepspeed wraps the whole module"),
        (("--model.policy.path", "./nowhere"), "policy.path './nowhere' does not exist"),
        (("--model.engine", "tree", "--model.policy.compile", "true"), "blocks are compiled"),
    ],
)
def test_mistakes_are_answered_in_one_line(arguments, said):
    outcome = lgrpo("memory", *QUICKSTART, *MODEL, *arguments)
    assert outcome.code == 1
    assert said in outcome.err
    assert "Traceback" not in outcome.err
