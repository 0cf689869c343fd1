import itertools
import json
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from assets.make_tiny_addition import EOS, Problem, accuracy, main, write_solution

ASSETS = Path(__file__).resolve().parent.parent / "assets"
POLICY = ASSETS / "tiny-addition"
STEP = re.compile(r"(\d)\+(\d)\+([01])=([01])(\d);")

same_length_pairs = st.sampled_from([1, 2, 3, 4, 5]).flatmap(
    lambda n: st.tuples(*[st.integers(10 ** (n - 1), 10**n - 1)] * 2)
)


def read_problems(name):
    lines = (ASSETS / "addition" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert all(row.keys() == {"prompt", "answer"} for row in rows)
    problems = [Problem(*map(int, re.findall(r"\d+", row["prompt"]))) for row in rows]
    return rows, problems


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(POLICY)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(POLICY)


def boxed(solution):
    return re.search(r"\\boxed\{(\d+)\}$", solution)[1]


def test_worked_example():
    solution = write_solution(Problem(2914, 1122))
    assert solution == r"4+2+0=06;1+2+0=03;9+1+0=10;2+1+1=04;\boxed{4036}"
    forgetful = write_solution(Problem(2914, 1122), lambda: False)
    assert forgetful == r"4+2+0=06;1+2+0=03;9+1+0=10;2+1+0=03;\boxed{3036}"


def test_last_carry_is_written_even_by_the_forgetful():
    assert write_solution(Problem(999, 999), lambda: False).endswith(r"9+9+0=18;\boxed{1888}")


@given(same_length_pairs)
def test_solution_with_every_carry_is_right(pair):
    problem = Problem(*pair)
    assert boxed(write_solution(problem)) == problem.answer


@given(same_length_pairs, st.lists(st.booleans(), min_size=4, max_size=4))
def test_solution_is_consistent_with_the_carries_it_keeps(pair, answers):
    problem, kept = Problem(*pair), []
    solution = write_solution(problem, lambda: kept.append(answers[len(kept)]) or kept[-1])
    steps = [tuple(map(int, step)) for step in STEP.findall(solution)]
    assert len(STEP.sub("", solution)) == len(solution) - 9 * len(steps)

    # Every line adds up by itself, and copies the digits asked for.
    assert all(
        left + right + carry == 10 * tens + units for left, right, carry, tens, units in steps
    )
    assert "".join(str(step[0]) for step in reversed(steps)) == str(problem.left)
    assert "".join(str(step[1]) for step in reversed(steps)) == str(problem.right)
    # A carry is either passed on or forgotten, as asked; none is invented.
    carried = [(before[3], after[2]) for before, after in itertools.pairwise(steps)]
    assert steps[0][2] == 0
    assert [after == 1 for before, after in carried if before == 1] == kept
    assert all(after == 0 for before, after in carried if before == 0)
    # The box holds the digits as written, so one forgotten carry makes it wrong.
    digits = "".join(str(step[4]) for step in reversed(steps))
    assert boxed(solution) == ("1" if steps[-1][3] else "") + digits
    assert (boxed(solution) == problem.answer) == all(kept)


def test_problem_files_are_right_and_disjoint():
    (train_rows, train), (heldout_rows, heldout) = read_problems("train"), read_problems("heldout")
    assert (len(train), len(heldout)) == (4000, 200)
    for row, problem in zip(train_rows + heldout_rows, train + heldout, strict=True):
        assert row == {"prompt": problem.prompt, "answer": problem.answer}
    unordered = [frozenset({(p.left, p.right), (p.right, p.left)}) for p in train + heldout]
    assert len(set(unordered)) == len(unordered)


def test_files_are_small():
    sizes = [path.stat().st_size for path in (ASSETS / "addition").iterdir()]
    assert sum(sizes) < 250_000
    assert sum(path.stat().st_size for path in POLICY.iterdir()) < 600_000


def test_tokenizer_round_trips_every_problem(tokenizer):
    _, problems = read_problems("train")
    _, heldout = read_problems("heldout")
    texts = [p.prompt + write_solution(p) + EOS for p in problems + heldout]
    encoded = tokenizer(texts).input_ids
    assert tokenizer.batch_decode(encoded) == texts
    assert tokenizer.unk_token_id not in set().union(*encoded)
    assert all(ids[-1] == tokenizer.eos_token_id for ids in encoded)


def test_tokenizer_choices(tokenizer):
    assert tokenizer.tokenize(r"4;\boxed{4}") == ["4", ";", r"\boxed{", "4", "}"]
    assert tokenizer("Q:1").input_ids == tokenizer("Q:1", add_special_tokens=False).input_ids
    assert len({tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}) == 3
    assert tokenizer(" é\n").input_ids == [tokenizer.unk_token_id] * 3


def test_policy_size_and_settings(model, tokenizer):
    assert model.num_parameters() == 108_096
    assert model.dtype == torch.float32
    assert model.config.vocab_size == len(tokenizer) == 20
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id


def test_policy_starts_at_about_a_quarter(model, tokenizer):
    _, heldout = read_problems("heldout")
    assert 0.15 <= accuracy(model, tokenizer, heldout[:100]) <= 0.35


def test_script_refuses_to_overwrite_and_repeats_itself(tmp_path, capsys):
    small = ["--train", "8", "--heldout", "4", "--steps", "2", "--batch-size", "4"]
    for name in ("one", "two"):
        main(["--folder", str(tmp_path / name), *small])
    written = [sorted(p for p in (tmp_path / n).rglob("*") if p.is_file()) for n in ("one", "two")]
    assert {path.name for path in written[0]} == {
        *("train.jsonl", "heldout.jsonl", "config.json", "generation_config.json"),
        *("model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    }
    assert [p.read_bytes() for p in written[0]] == [p.read_bytes() for p in written[1]]

    with pytest.raises(SystemExit):
        main(["--folder", str(tmp_path / "one"), *small])
    assert "add --overwrite" in capsys.readouterr().err
    main(["--folder", str(tmp_path / "one"), "--overwrite", "--seed", "1", *small])
    assert written[0][0].read_bytes() != written[1][0].read_bytes()
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == [
        "addition",
        "tiny-addition",
    ]
