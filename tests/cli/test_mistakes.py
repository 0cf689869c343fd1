"""Every mistake of a user's gets one line that says what to write, and no traceback."""

import json
import shutil

import pytest

from tests.cli.running import ROOT, lgrpo


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", 'expected "subcommand" to be one of {fit,validate,test,predict}'),
        ("fitt", "invalid choice: 'fitt'"),
        ("fit", "model.policy.path, model.rewards must be given; start from a config"),
        ("fit -c nowhere.yaml", "File does not exist: '"),
        ("fit -c tiny.yaml --model.group_sise 4", "did you mean 'model.group_size'?"),
        ("fit -c tiny.yaml --qwertz 4", "no option 'qwertz'; lgrpo fit --help lists the options"),
        ("fit -c tiny.yaml --model.group_size eight", "model.group_size: expected int, got eight"),
        (
            "fit -c tiny.yaml --model.loss.surrogate pp",
            "model.loss.surrogate: expected one of ['ppo', 'cispo', 'gspo'], got pp",
        ),
        (
            "fit -c tiny.yaml --model.optimizer.class_path torch.optim.AdamWW",
            "module 'torch.optim' has no attribute 'AdamWW'",
        ),
        ("fit -c tiny.yaml --model.optimizer.init_args.lrr 1", "; did you mean 'lr'?"),
        ("fit -c tiny.yaml --model.rewards x.y", "model.rewards: expected list, got x.y"),
        ("fit -c tiny.yaml --data.limit many", "data.limit: expected int, got many"),
        ("fit -c tiny.yaml -c broken.yaml", 'in "<unicode string>", line 2'),
        ("fit -c tiny.yaml -c key.yaml", "did you mean 'model.group_size'?"),
        ("fit -c tiny.yaml -c callback.yaml", "did you mean 'KLTracker'?"),
        ("fit -c tiny.yaml -c argument.yaml", "; did you mean 'target'?"),
        ("fit -c tiny.yaml -c module.yaml", "No module named 'my_things'; is its file in the work"),
    ],
)
def test_what_cannot_be_parsed(place, parser, capsys, arguments, said):
    (place / "broken.yaml").write_text("model:\n  group_size: [4\n")
    (place / "key.yaml").write_text("model: {groupsize: 4}\n")
    for name, entry in {
        "callback": "{class_path: lgrpo_callbacks.KLTraker}",
        "argument": "{class_path: lgrpo_callbacks.KLTracker, init_args: {targt: 1}}",
        "module": "{class_path: my_things.Bell}",
    }.items():
        (place / f"{name}.yaml").write_text(f"trainer:\n  callbacks: [{entry}]\n")
    with pytest.raises(SystemExit) as end:
        parser.parse_args(arguments.split())
    assert end.value.code == 2
    line = capsys.readouterr().err
    assert said in line
    assert line.startswith("lgrpo: ")
    assert line.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--model.group_size 1", "group_size must be at least 2, got 1"),
        ("--model.loss.kl_coef -1", "kl_coef must be 0 or more, got -1.0"),
        ("--model.rewards [nowhere.good]", "there is no module 'nowhere' in "),
        ("--model.rewards [gsm8k_reward]", "did you mean 'lgrpo_lightning.rewards.gsm8k_reward'?"),
        ("-c lora.yaml", "lora.r must be at least 1, got 0"),
        ("--threads 0", "--threads must be at least 1, got 0"),
        ("--trainer.default_root_dir here", "say with --runs where these are to lie"),
        (
            "--trainer.strategy deepspeed_stage_2",
            "trainer.strategy deepspeed_stage_2 wraps the whole module",
        ),
        ("--trainer.strategy foo", "invalid strategy name: `strategy='foo'`"),
        ("--trainer.accelerator gpu --trainer.devices 900", "gpu"),
        ("--runs tiny.yaml", "--runs tiny.yaml: "),
        ("--ckpt_path nowhere.ckpt", "--ckpt_path nowhere.ckpt: there is no such checkpoint"),
        ("--ckpt_path last", "--ckpt_path last: no run in runs/tiny has a checkpoint"),
        ("-c callback.yaml", "k must hold numbers of tries from 1 on, got 0"),
    ],
)
def test_what_nothing_can_be_built_with(place, arguments, said):
    entry = "{class_path: lgrpo_callbacks.RewardEvaluator, init_args: {k: 0}}"
    (place / "callback.yaml").write_text(f"trainer:\n  callbacks: [{entry}]\n")
    (place / "lora.yaml").write_text("model: {policy: {lora: {r: 0}}}\n")
    outcome = lgrpo("fit", "-c", "tiny.yaml", *arguments.split())
    assert_said(outcome, said)
    assert not list((place / "runs").glob("*/*")), "a run that never began has no folder"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--model.policy.path no/such/model", "policy.path 'no/such/model' does not exist"),
        ("--model.policy.path some-org/some-model", "no tokenizer could be loaded from"),
        ("--data.path nowhere.jsonl", "there is no file or folder 'nowhere.jsonl' (looked for in"),
        ("--data.path some-org/some-data", "the hub was not reached"),
        ("--data.path empty.jsonl", "'empty.jsonl' has no rows"),
        ("--data.path question.jsonl", "Name the prompt's column with columns: {prompt: question}"),
        ("--data.path bare.jsonl", "needs the column 'answer'; the data set has"),
        ("--data.name main", "is not on the hub; set name to null"),
        ("--model.micro_batch_size 3", "micro_batch_size 3 does not divide the rollout of 2"),
        ("--model.sampling.max_new_tokens 500", "exceeds the model's context of 128 tokens"),
        ("--model.policy.path endless", "has no end-of-sequence token"),
    ],
)
def test_what_does_not_fit_together(place, arguments, said):
    (place / "empty.jsonl").write_text("")
    (place / "question.jsonl").write_text('{"question": "1+1", "answer": "2"}\n' * 4)
    (place / "bare.jsonl").write_text('{"prompt": "Q:1+1="}\n' * 4)
    without_end_token(place / "endless")
    outcome = lgrpo("fit", "-c", "tiny.yaml", *arguments.split())
    assert_said(outcome, said)
    assert not list(place.glob("runs/*/*/checkpoints"))


def without_end_token(folder):
    """A copy of the tiny policy whose tokenizer knows no end."""
    shutil.copytree(ROOT / "assets" / "tiny-addition", folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    del settings["eos_token"]
    path.write_text(json.dumps(settings))


def assert_said(outcome, said):
    assert outcome.code == 1
    line = outcome.err.rstrip("\n").splitlines()[-1]
    assert line.startswith("lgrpo: ")
    assert said in line
    assert "Traceback" not in outcome.err


def test_an_error_of_another_kind_keeps_its_traceback(place, monkeypatch):
    # Compiled elsewhere, as the code of a library is.
    source = "def fail():\n    raise ValueError('a bug of a library')\n"
    library: dict = {}
    exec(compile(source, "/somewhere/library.py", "exec"), library)
    monkeypatch.setattr(
        "lgrpo_lightning.module.LambdaGRPO.configure_optimizers", lambda self: library["fail"]()
    )
    with pytest.raises(ValueError, match="a bug of a library"):
        lgrpo("fit", "-c", "tiny.yaml")
