import warnings

import pytest
from jsonargparse import ArgumentError, ArgumentParser
from lightning.pytorch.cli import LightningCLI

from lgrpo_lightning.data import EvalSet, PromptGroupDataModule

TRAIN = [{"question": f"train {i}", "answer": i} for i in range(9)]
TEST = [{"question": f"test {i}", "answer": i} for i in range(5)]
COLUMNS = {"prompt": "question"}


def test_nothing_is_read_before_setup():
    data = PromptGroupDataModule("no/such/file.jsonl", eval_path="nor/this.jsonl")
    assert data.train_set is None
    assert data.eval_set is None
    with pytest.raises(ValueError, match=r"no file or folder 'no/such/file\.jsonl'"):
        data.setup("fit")


def test_training_prompts_may_be_left_out_where_nothing_is_trained():
    data = PromptGroupDataModule(eval_sets={"a": EvalSet(TEST)}, columns=COLUMNS)
    data.prepare_data()
    data.setup("validate")
    assert len(data.eval_set) == 5
    with pytest.raises(ValueError, match="no prompts to train on; give path"):
        data.setup("fit")
    with pytest.raises(ValueError, match="eval_split is 'test', but of no data"):
        PromptGroupDataModule(eval_split="test")


def test_one_evaluation_set_shares_columns_and_format():
    data = PromptGroupDataModule(TRAIN, columns=COLUMNS, eval_path=TEST, template="{prompt}?")
    data.setup("fit")
    assert data.train_set.prompts[0] == "train 0?"
    assert data.train_set.columns == ("answer",)
    assert data.eval_set.prompts[0] == "test 0?"
    assert len(data.eval_set) == 5


def test_several_evaluation_sets_are_one_loader():
    sets = {
        "plain": EvalSet(TEST, limit=2),
        "bare": EvalSet(
            [{"prompt": "x", "level": 1}], columns={}, system_prompt="", template="{prompt}"
        ),
    }
    data = PromptGroupDataModule(
        TRAIN, columns=COLUMNS, eval_sets=sets, system_prompt="Think.", template="{prompt}?"
    )
    data.setup("validate")
    assert data.train_set is None
    (batch,) = data.val_dataloader()
    assert batch.sources == ["plain", "plain", "bare"]
    assert batch.indices == [0, 1, 0]
    assert batch.columns == {"answer": [0, 1, None], "level": [None, None, 1]}
    assert batch.prompts[0][0] == {"role": "system", "content": "Think."}
    assert batch.prompts[0][1]["content"] == "test 0?"
    assert batch.prompts[2] == "x"


def test_eval_split_alone_is_of_the_training_data(tmp_path):
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text(f'{{"prompt": "{split}"}}\n')
    data = PromptGroupDataModule(str(tmp_path), eval_split="test", prompts_per_rollout=1)
    data.setup("fit")
    assert (data.train_set.prompts, data.eval_set.prompts) == (["train"], ["test"])
    assert data.eval_set.sources == [tmp_path.name]


def test_an_evaluation_split_is_never_guessed(tmp_path):
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text(f'{{"prompt": "{split}"}}\n')
    data = PromptGroupDataModule(str(tmp_path), eval_path=str(tmp_path))
    with pytest.raises(ValueError, match="several splits; choose one: test, train"):
        data.setup("test")


def test_limits():
    sets = {"few": EvalSet(TEST, limit=1), "more": EvalSet(TEST)}
    data = PromptGroupDataModule(TRAIN, columns=COLUMNS, limit=8, eval_sets=sets, eval_limit=3)
    data.setup("fit")
    assert len(data.train_set) == 8
    assert data.eval_set.sources == ["few"] + ["more"] * 3


def test_prompts_on_both_sides_are_counted():
    shared = [*TEST[:2], {"question": "train 0"}, {"question": " train 1\n"}]
    data = PromptGroupDataModule(TRAIN, columns=COLUMNS, eval_path=shared)
    with pytest.warns(UserWarning, match="2 of 4 evaluation prompts are training prompts too"):
        data.setup("fit")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.setup("validate")  # known already


def test_the_seed_is_that_of_seed_everything(monkeypatch):
    def order(**options):
        data = PromptGroupDataModule(TRAIN, columns=COLUMNS, prompts_per_rollout=9, **options)
        data.setup("fit")
        (batch,) = data.train_dataloader()
        return batch.indices

    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    default = order()
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert order() == order(seed=7) != default == order(seed=0)
    assert order(shuffle=False) == list(range(9))


def test_loaders_need_setup():
    data = PromptGroupDataModule(TRAIN, columns=COLUMNS, eval_path=TEST)
    with pytest.raises(ValueError, match=r'call setup\("fit"\) first'):
        data.train_dataloader()
    with pytest.raises(ValueError, match="call setup first"):
        data.val_dataloader()


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_evaluation_needs_prompts(stage):
    with pytest.raises(ValueError, match=f"no prompts to {stage}"):
        PromptGroupDataModule(TRAIN, columns=COLUMNS).setup(stage)


def test_too_few_prompts_are_noticed_in_setup():
    data = PromptGroupDataModule(TRAIN, columns=COLUMNS, prompts_per_rollout=10)
    with pytest.raises(ValueError, match="9 prompts do not fill one rollout of 10"):
        data.setup("fit")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eval_path": TEST, "eval_sets": {"a": EvalSet(TEST)}}, "not both"),
        ({"prompts_per_rollout": 0}, "prompts_per_rollout is 0"),
        ({"eval_prompts_per_batch": 0}, "eval_prompts_per_batch is 0"),
        ({"template": "{prompt} {}"}, "no column name"),
        ({"eval_sets": {"a": EvalSet(TEST, template="same")}}, "has no field"),
    ],
)
def test_arguments_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        PromptGroupDataModule(TRAIN, **options)


CONFIGURATION = r"""
path: data/gsm8k/train.jsonl
columns: {prompt: question}
template: "{prompt}\nPut the answer in \\boxed{{}}."
eval_sets:
  gsm8k: {path: data/gsm8k/test.jsonl, limit: 100}
  amc23: {path: [data/amc23/test.jsonl], columns: {prompt: problem}, system_prompt: ""}
prompts_per_rollout: 4
"""


def test_it_can_be_written_as_yaml(recorder, tmp_path):
    file = tmp_path / "config.yaml"
    indented = CONFIGURATION.replace("\n", "\n  ")
    file.write_text(f"data:{indented}\n")
    arguments = ["--config", str(file), "--data.eval_prompts_per_batch=9"]
    cli = LightningCLI(recorder, PromptGroupDataModule, args=arguments, run=False)
    data = cli.datamodule
    assert data.path == "data/gsm8k/train.jsonl"
    assert data.prompt_format.template == "{prompt}\nPut the answer in \\boxed{{}}."
    assert data.eval_sets == {
        "gsm8k": EvalSet("data/gsm8k/test.jsonl", limit=100),
        "amc23": EvalSet(
            ["data/amc23/test.jsonl"], columns={"prompt": "problem"}, system_prompt=""
        ),
    }
    assert (data.prompts_per_rollout, data.eval_prompts_per_batch) == (4, 9)


def test_a_wrong_key_in_yaml_is_refused():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(PromptGroupDataModule, "data")
    with pytest.raises(ArgumentError, match="eval_sets"):
        parser.parse_object({"data": {"path": "x", "eval_sets": {"a": {"pth": "y"}}}})
