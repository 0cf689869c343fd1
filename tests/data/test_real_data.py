from lgrpo_lightning.data import EvalSet, PromptGroupDataModule


def test_gsm8k_with_two_other_evaluation_sets(real_data):
    data = PromptGroupDataModule(
        real_data("gsm8k/train.jsonl"),
        columns={"prompt": "question"},
        template="{prompt}\nPut the answer in \\boxed{{}}.",
        eval_sets={
            "gsm8k": EvalSet(real_data("gsm8k/test.jsonl"), limit=50),
            "aime24": EvalSet(real_data("aime24/test.jsonl"), columns={"prompt": "problem"}),
            "amc23": EvalSet(real_data("amc23/test.jsonl"), columns={"prompt": "problem"}),
        },
    )
    data.setup("fit")
    assert len(data.train_set) == 7473
    assert data.train_set.columns == ("answer",)
    assert len(data.train_dataloader()) == 7473 // 8
    batches = list(data.val_dataloader())
    sources = [source for batch in batches for source in batch.sources]
    assert sources == ["gsm8k"] * 50 + ["aime24"] * 30 + ["amc23"] * 40
    assert [len(batch.prompts) for batch in batches] == [32, 32, 32, 24]
    last = batches[-1]
    assert last.prompts[0].endswith("\nPut the answer in \\boxed{}.")
    assert all(isinstance(answer, float) for answer in last.columns["answer"])
    assert last.columns["solution"] == [None] * 24
    assert "####" in batches[0].columns["answer"][0]
