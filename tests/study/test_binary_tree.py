import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lgrpo_lightning.study.binary_tree import BinaryTreeStudy, TreePolicy
from lgrpo_lightning.study.tree_policy import PROMPT, make_tree_policy
from lgrpo_lightning.study.tree_report import TARGET_SHARE, TreeRuns, smoothed

ROOT = Path(__file__).parents[2]


def study(**changes):
    settings = {
        "config": str(ROOT / "configs/studies/binary_tree_run.yaml"),
        "shared": [1, 2],
        "negative": [-1.0],
        "seeds": 2,
        "last_steps": 2,
        "policy": TreePolicy(layers=1, width=8, heads=1),
    }
    return BinaryTreeStudy(**settings | changes)


def test_policy_speaks_left_and_right_evenly(tmp_path):
    make_tree_policy(tmp_path / "a", seed=0, layers=2, width=64, heads=2)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "a").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "a")
    left, right = tokenizer.convert_tokens_to_ids(["L", "R"])
    assert tokenizer.encode(PROMPT) == [tokenizer.bos_token_id]
    assert tokenizer.decode([left, left, right, left]) == "LLRL"
    with torch.no_grad():
        logits = model(torch.tensor([[tokenizer.bos_token_id, left, right]])).logits[0]
    shares = logits[:, [left, right]].softmax(-1)
    assert ((shares > 0.2) & (shares < 0.8)).all()


def test_policy_is_that_of_its_seed(tmp_path):
    state = torch.random.get_rng_state()
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        make_tree_policy(tmp_path / name, seed, layers=1, width=8, heads=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "abc"]
    assert weights[0] == weights[1] != weights[2]


def test_every_run_has_its_key_and_options(tmp_path):
    jobs = study().jobs(tmp_path, print)
    assert len(jobs) == 2 * 2 * 2
    assert len({json.dumps(job.key, sort_keys=True) for job in jobs}) == len(jobs)
    run = jobs[-1].work.args[1]
    assert run.options["model.loss.process_set_scaling"] is True
    target = jobs[-1].key["target"]
    assert run.options["model.rewards"][0]["arguments"] == {
        "target": target,
        "shared": 2,
        "negative": -1.0,
    }
    assert (Path(run.options["model.policy.path"]) / "config.json").is_file()
    prompt = json.loads(Path(run.options["data.path"]).read_text())
    assert prompt == {"prompt": PROMPT, "answer": target}


def test_targets_differ_and_are_those_of_their_seeds(tmp_path):
    targets = {}
    for job in study(seeds=8).jobs(tmp_path, print):
        targets.setdefault(job.key["seed"], set()).add(job.key["target"])
    assert all(len(values) == 1 for values in targets.values())
    assert len(set.union(*targets.values())) > 3
    assert targets[0] == {"RRLL"}  # as configs/studies/binary_tree_run.yaml says


def test_table_by_hand():
    runs = TreeRuns(
        {
            (1, -1.0, "GRPO"): [[0.9, 0.2, 0.4], [0.0, 0.0, 0.2]],
            (1, -1.0, "λ-GRPO"): [[0.0, 0.6, 0.8], [0.0, 0.4, 0.4]],
            (2, -1.0, "GRPO"): [[0.0, 0.0, 0.0], [0.0, 0.2, 0.2]],
            (2, -1.0, "λ-GRPO"): [[0.0, 0.2, 0.2], [0.0, 0.1, 0.1]],
        },
        last_steps=2,
        cpu_seconds=60.0,
    )
    assert runs.cells == [(1, -1.0), (2, -1.0)]
    assert runs.finals((1, -1.0), "GRPO") == pytest.approx([0.3, 0.1])
    assert runs.differences((1, -1.0)) == pytest.approx([0.4, 0.3])
    assert runs.differences((2, -1.0)) == pytest.approx([0.2, -0.1])
    overall = runs.mean_difference()  # of 0.3 and 0.1, the seeds' means over cells
    assert overall.value == pytest.approx(0.2)
    assert overall.high - overall.value == pytest.approx(12.7062 * 0.1, abs=1e-4)
    # 1.4/3 and 0.8/3 against 1.5/3 and 0.2/3, then 0.4/3 and 0.2/3 against 0 and 0.4/3
    sooner = runs.mean_difference(runs.averages)
    assert sooner.value == pytest.approx((-0.1 + 0.6 + 0.4 - 0.2) / 12)
    assert [runs.ended_well((1, -1.0), method) for method in ("GRPO", "λ-GRPO")] == [0, 1]
    assert runs.share((1, -1.0), "λ-GRPO").high == 1.0  # as far as a share can go


def test_a_target_that_is_lost_again_is_counted():
    found, lost, never = [0.0, *([1.0] * 20)], [*([1.0] * 20), *([0.0] * 20)], [0.5] * 30
    runs = TreeRuns(
        {(1, -1.0, "GRPO"): [found, lost, never], (1, -1.0, "λ-GRPO"): [found, found, never]},
        last_steps=2,
        cpu_seconds=60.0,
    )
    assert [runs.lost(method) for method in ("GRPO", "λ-GRPO")] == [1, 0]


def test_smoothing_looks_back_only():
    assert smoothed([1.0, 0.0, 2.0]) == [1.0, 0.5, 1.0]
    assert smoothed([*([0.0] * 10), 1.0])[-1] == 0.1


def test_report(tmp_path):
    pytest.importorskip("matplotlib")
    records = [
        {"curves": {TARGET_SHARE: [[1, 0.0], [2, share], [3, share]]}, "cpu_seconds": 30.0}
        # Seed by seed: n = 1 with GRPO and λ-GRPO, then n = 2.
        for share in (0.1, 0.5, 0.2, 0.2, 0.3, 0.5, 0.2, 0.4)
    ]
    text = study().report(records, tmp_path)
    assert "| 1 | -1    | 0.20 " in text
    assert "0.7535" in text
    assert "in the mean over the cells: +0.200" in text
    assert "Of 4 runs each, 0 with GRPO and 0 with λ-GRPO found" in text
    assert "4.0 minutes" in text
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["cells"][1]["λ-GRPO"]["value"] == pytest.approx(0.3)
    assert (tmp_path / "curves.png").stat().st_size > 10_000


@pytest.mark.parametrize("name", ["seeds", "last_steps"])
def test_bad_numbers_are_refused(name):
    with pytest.raises(ValueError, match=name):
        study(**{name: 0})
