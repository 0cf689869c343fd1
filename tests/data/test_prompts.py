import warnings

import datasets
import pytest

from lgrpo_lightning.data import PromptFormat, PromptSet

ROWS = [{"question": "a?", "answer": 1}, {"question": "b?", "answer": 2}]
COLUMNS = {"prompt": "question"}


def test_columns_are_mapped():
    prompts = PromptSet.load(ROWS, columns=COLUMNS, name="sums")
    assert len(prompts) == 2
    assert prompts.prompts == ["a?", "b?"]
    assert prompts.columns == ("answer",)
    batch = prompts.batch([1])
    assert (batch.prompts, batch.columns) == (["b?"], {"answer": [2]})
    assert (batch.sources, batch.indices) == (["sums"], [1])


def test_a_mapped_column_hides_one_of_the_same_name():
    rows = [{"prompt": "old", "question": "new", "solution": "s", "answer": "a"}]
    prompts = PromptSet.load(rows, columns={"prompt": "question", "answer": "solution"})
    assert prompts.prompts == ["new"]
    assert prompts.batch([0]).columns == {"answer": ["s"]}


def test_one_column_under_two_names():
    for source in (ROWS, datasets.Dataset.from_list(ROWS)):
        prompts = PromptSet.load(source, columns={**COLUMNS, "question": "question"})
        assert prompts.batch([1, 0]).columns == {"question": ["b?", "a?"], "answer": [2, 1]}


def test_a_template_can_make_the_prompt():
    prompts = PromptSet.load(ROWS, prompt_format=PromptFormat(template="Q: {question}"))
    assert prompts.prompts == ["Q: a?", "Q: b?"]
    assert prompts.columns == ("question", "answer")


def test_conversations_from_arrow():
    talk = [{"role": "user", "content": "a?"}]
    prompts = PromptSet.load(datasets.Dataset.from_list([{"prompt": talk}]))
    assert prompts.prompts == [talk]
    assert prompts.batch([0]).columns == {}


def test_limit():
    assert PromptSet.load(ROWS, columns=COLUMNS, limit=1).prompts == ["a?"]
    assert len(PromptSet.load(ROWS, columns=COLUMNS, limit=9)) == 2
    with pytest.raises(ValueError, match="limit is 0"):
        PromptSet.load(ROWS, columns=COLUMNS, limit=0)


def test_rows_after_the_limit_are_not_looked_at():
    assert len(PromptSet.load([{"prompt": "a"}, {"prompt": None}], limit=1)) == 1


def test_joined_sets_keep_their_names_rows_and_columns():
    first = PromptSet.load(ROWS, columns=COLUMNS, name="first")
    second = PromptSet.load([{"prompt": "c?", "level": "hard"}], name="second")
    third = PromptSet.concatenate([first, second])
    joined = PromptSet.concatenate([third, first])
    assert len(joined) == 5
    assert joined.columns == ("answer", "level")
    batch = joined.batch([4, 2, 0])
    assert batch.prompts == ["b?", "c?", "a?"]
    assert batch.columns == {"answer": [2, None, 1], "level": [None, "hard", None]}
    assert (batch.sources, batch.indices) == (["first", "second", "first"], [1, 0, 0])


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([], {}, "the list in memory has no rows"),
        (ROWS, {}, r"no column 'prompt'; it has: question, answer.*\{prompt: question\}"),
        ([{"text": "a"}], {}, r"no column 'prompt'; it has: text.*\{prompt: …\}"),
        (ROWS, {"columns": {"prompt": "query"}}, "maps 'prompt' to 'query'.*question, answer"),
        (
            ROWS,
            {"columns": COLUMNS, "prompt_format": PromptFormat(template="{prompt} {hint}")},
            "no column 'hint'; the template.*it has: question, answer",
        ),
        (
            [{"prompt": "a", "completions": "b"}],
            {},
            r"argument of reward functions.*\{data_completions: completions\}",
        ),
        (
            [{"prompt": "a"}, {"prompt": ""}, {"prompt": None}],
            {},
            "2 of 3 rows .* row 1: prompt is empty; row 2: prompt is None",
        ),
        ([{"prompt": ""}] * 7, {}, "7 of 7 rows .*row 4: prompt is empty; …"),
    ],
)
def test_what_is_wrong_is_told(rows, options, message):
    with pytest.raises(ValueError, match=message):
        PromptSet.load(rows, **options)


def test_repeated_prompts_are_counted():
    rows = [{"prompt": text} for text in ("a", "b", "a ", "a")]
    with pytest.warns(UserWarning, match="2 of 4 prompts of the list in memory repeat others"):
        PromptSet.load(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PromptSet.load(rows[:2])
