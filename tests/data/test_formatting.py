import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from lgrpo_lightning.data import PromptEncoder, completion_messages

SPECIAL = ["<pad>", "<s>", "</s>", "<user>", "<system>", "<assistant>"]
PAD, BOS, EOS, USER, SYSTEM, ASSISTANT = range(len(SPECIAL))
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def make_tokenizer(around="<s> $A", chat_template=TEMPLATE, **special):
    """One token per character; `around` says what is put around a text."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *"abcdefgh "])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    core.post_processor = processors.TemplateProcessing(
        single=around, special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", **special}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **tokens)
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL[USER:]})
    tokenizer.chat_template = chat_template
    return tokenizer


def ids(text):
    return [len(SPECIAL) + "abcdefgh ".index(character) for character in text]


def talk(*turns):
    return [{"role": role, "content": content} for role, content in turns]


def unpadded(encoded):
    return [
        row[mask].tolist()
        for row, mask in zip(encoded.prompt_ids, encoded.prompt_mask, strict=True)
    ]


def test_texts_and_conversations_together():
    prompts = ["abc", talk(("user", "a")), talk(("system", "b"), ("user", "ab"))]
    encoded = PromptEncoder(make_tokenizer())(prompts)
    assert unpadded(encoded) == [
        [BOS, *ids("abc")],
        [BOS, USER, *ids("a"), ASSISTANT],
        [BOS, SYSTEM, *ids("b"), USER, *ids("ab"), ASSISTANT],
    ]
    assert encoded.texts == [
        "abc",
        "<s><user>a<assistant>",
        "<s><system>b<user>ab<assistant>",
    ]


def test_padding_is_on_the_left():
    encoded = PromptEncoder(make_tokenizer())(["a", "abc"])
    assert encoded.prompt_ids.tolist() == [[PAD, PAD, BOS, *ids("a")], [BOS, *ids("abc")]]
    assert encoded.prompt_mask.tolist() == [[False, False, True, True], [True] * 4]
    assert (encoded.prompt_ids.dtype, encoded.prompt_mask.dtype) == (torch.long, torch.bool)


def test_a_text_that_brings_its_own_bos_has_one():
    assert unpadded(PromptEncoder(make_tokenizer())(["<s>abc"])) == [[BOS, *ids("abc")]]


def test_an_eos_that_the_tokenizer_appends_is_left_out():
    encoder = PromptEncoder(make_tokenizer("<s> $A </s>"))
    assert unpadded(encoder(["ab"])) == [[BOS, *ids("ab")]]


def test_an_eos_within_the_text_stays():
    assert unpadded(PromptEncoder(make_tokenizer())(["a</s>"])) == [[BOS, *ids("a"), EOS]]
    encoder = PromptEncoder(make_tokenizer("<s> $A </s>"))
    assert unpadded(encoder(["a</s>"])) == [[BOS, *ids("a"), EOS]]


def test_bos_and_eos_may_be_the_same_token():
    encoder = PromptEncoder(make_tokenizer("</s> $A", bos_token="</s>"))
    assert unpadded(encoder(["ab"])) == [[EOS, *ids("ab")]]


def test_a_tokenizer_without_special_tokens():
    tokenizer = make_tokenizer("$A", bos_token=None, pad_token=None, eos_token=None)
    encoded = PromptEncoder(tokenizer)(["a", "ab"])
    assert unpadded(encoded) == [ids("a"), ids("ab")]


def test_the_tokenizer_is_left_as_it_was():
    tokenizer = make_tokenizer()
    before = tokenizer.padding_side, tokenizer.truncation_side
    PromptEncoder(tokenizer)(["a", "ab"])
    assert (tokenizer.padding_side, tokenizer.truncation_side) == before


def test_lengths_are_those_of_the_encoded_prompts():
    prompts = ["abc", talk(("user", "a")), "a"]
    encoder = PromptEncoder(make_tokenizer(), max_prompt_tokens=3)
    assert encoder.lengths(prompts) == [4, 4, 2]
    with pytest.raises(ValueError, match=r"2 of 3 prompts .*max_prompt_tokens=3.*has 4\. Raise"):
        encoder.check(prompts)
    encoder.check(["a"])


def test_long_prompts_are_refused_with_their_rows():
    encoder = PromptEncoder(make_tokenizer(), max_prompt_tokens=3)
    with pytest.raises(ValueError, match=r"1 of 2 prompts .*the longest, of row 17, has 6"):
        encoder(["a", "abcde"], rows=[3, 17])


def test_a_conversation_needs_a_chat_template():
    encoder = PromptEncoder(make_tokenizer(chat_template=None))
    assert len(encoder(["a"]).texts) == 1
    with pytest.raises(ValueError, match=r"row 5 is a conversation, but .* has no chat template"):
        encoder([talk(("user", "a"))], rows=[5])


def test_what_the_chat_template_refuses_is_told():
    refusing = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(ValueError, match="refuses the prompt of row 0: System role not supported"):
        PromptEncoder(make_tokenizer(chat_template=refusing))([talk(("user", "a"))])


def test_prompts_without_tokens_are_refused():
    tokenizer = make_tokenizer("$A", bos_token=None)
    with pytest.raises(ValueError, match="the prompt of row 1 has no tokens"):
        PromptEncoder(tokenizer)(["a", ""])
    with pytest.raises(ValueError, match="no prompts to encode"):
        PromptEncoder(tokenizer)([])


def test_a_limit_below_one_is_refused():
    with pytest.raises(ValueError, match="max_prompt_tokens is 0"):
        PromptEncoder(make_tokenizer(), max_prompt_tokens=0)


def test_completion_messages():
    assert completion_messages("4") == [{"role": "assistant", "content": "4"}]
