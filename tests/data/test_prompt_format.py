import pytest

from lgrpo_lightning.data import PromptFormat

TALK = [{"role": "user", "content": "2 + 2?"}]
SYSTEM = {"role": "system", "content": "Think."}


def render(prompt, **options):
    return PromptFormat(**options).render({"prompt": prompt})


def test_prompts_stay_as_they_are():
    assert render(" 2 + 2?\n") == " 2 + 2?\n"
    assert render(TALK) == TALK


def test_system_prompt():
    assert render("2 + 2?", system_prompt="Think.") == [SYSTEM, *TALK]
    assert render(TALK, system_prompt="Think.") == [SYSTEM, *TALK]


def test_conversational():
    assert render("2 + 2?", conversational=True) == TALK
    assert render(TALK, conversational=True) == TALK
    assert render("2 + 2?", conversational=False) == "2 + 2?"


def test_template():
    template = "{prompt}\nPut the answer in \\boxed{{}}."
    assert render("2 + 2?", template=template) == "2 + 2?\nPut the answer in \\boxed{}."
    first = {"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Yes?"}
    assert render([*first, *TALK], template="{prompt} Now.") == [
        *first,
        {"role": "user", "content": "2 + 2? Now."},
    ]


def test_braces_in_the_data_are_text():
    assert render("{x} \\frac{1}{2}", template="{prompt}!") == "{x} \\frac{1}{2}!"


def test_template_of_other_columns():
    prompt_format = PromptFormat(template="{question} ({points:.1f} points)")
    assert prompt_format.fields == {"question", "points"}
    assert prompt_format.render({"question": "Why?", "points": 2}) == "Why? (2.0 points)"


def test_keys_that_arrow_adds_are_dropped():
    assert render([{"role": "user", "content": "2 + 2?", "name": None}]) == TALK


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"system_prompt": " "}, "system_prompt is empty"),
        ({"system_prompt": "x", "conversational": False}, "conversational cannot be False"),
        ({"template": "Be brief."}, "has no field"),
        ({"template": "{prompt} \\boxed{}"}, "a field {}, which is no column name"),
        ({"template": "{0}"}, "a field {0}"),
        ({"template": "{prompt.x}"}, "a field {prompt.x}"),
        ({"template": "{prompt} }"}, "is broken: Single '}' encountered"),
        ({"template": "{prompt"}, "is broken"),
    ],
)
def test_formats_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        PromptFormat(**options)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (None, "prompt is None"),
        ("", "prompt is empty"),
        (" \n", "prompt is empty"),
        (7, "prompt is of type int"),
        ([], "empty list of messages"),
        (["Hello"], "message 0 is a str"),
        ([{"content": "Hello"}], "message 0 has no text under 'role'"),
        ([*TALK, {"role": "user"}], "message 1 has no text under 'content'"),
        ([{"role": "user", "content": [{"type": "image"}]}], "no text under 'content'"),
        ([{"role": "user", "content": "x", "tools": ["y"]}], "a list under 'tools'"),
        ([*TALK, {"role": "assistant", "content": "4"}], "last message is the assistant's"),
        ([{"role": "user", "content": " "}], "last message is empty"),
    ],
)
def test_rows_that_are_no_prompts(prompt, message):
    with pytest.raises(ValueError, match=message):
        render(prompt)


def test_an_empty_prompt_is_not_hidden_by_a_template():
    with pytest.raises(ValueError, match="prompt is empty"):
        render("", template="Question: {prompt}")


def test_conversations_that_contradict_the_format():
    with pytest.raises(ValueError, match="conversational is False"):
        render(TALK, conversational=False)
    with pytest.raises(ValueError, match="has a system message already"):
        render([SYSTEM, *TALK], system_prompt="Be brief.")


def test_a_missing_value_is_named():
    with pytest.raises(ValueError, match="context is None"):
        PromptFormat(template="{context} {prompt}").render({"context": None, "prompt": "x"})
