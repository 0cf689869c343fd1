import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lgrpo_lightning.rollout import TokenTexts
from tests.rollout.tiny import letters

TEXTS = ["So 2 + 2 = 4.\n\nDone", "λ-GRPO: 🙂 字字", "", "  two  spaces ", "half 🙂"]


def trained(pre_tokenizer, decoder, alphabet):
    tokenizer = Tokenizer(models.BPE(byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoder
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<eos>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


def byte_level():
    return trained(
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
        pre_tokenizers.ByteLevel.alphabet(),
    )


def sentence_pieces():
    return trained(pre_tokenizers.Metaspace(), decoders.Metaspace(), [])


def padded(rows):
    length = max(map(len, rows))
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row)
        mask[number, : len(row)] = True
    return ids, mask


@pytest.mark.parametrize("make", [byte_level, sentence_pieces])
def test_joined_the_pieces_are_the_text(make):
    tokenizer = make()
    rows = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in TEXTS]
    texts = TokenTexts(*padded(rows), tokenizer)
    assert len(texts) == len(TEXTS)
    for number, row in enumerate(rows):
        assert len(texts[number]) == len(row)
        assert "".join(texts[number]) == tokenizer.decode(row)
        assert texts[number][-1] == "<eos>"


def test_a_word_keeps_the_space_before_it():
    tokenizer = sentence_pieces()
    ids = tokenizer("two spaces")["input_ids"]
    pieces = TokenTexts(*padded([ids]), tokenizer)[0]
    assert "".join(pieces) == "two spaces"
    assert any(piece.startswith(" ") for piece in pieces)


def test_a_character_of_several_tokens_belongs_to_the_last():
    tokenizer = byte_level()
    ids = [tokenizer.convert_tokens_to_ids(char) for char in "ðŁĻĤ"]  # the bytes of 🙂
    assert TokenTexts(*padded([ids]), tokenizer)[0] == ["", "", "", "🙂"]
    # Cut off inside of the character, nothing is lost and nothing invented.
    cut = TokenTexts(*padded([ids[:2]]), tokenizer)[0]
    assert cut[0] == ""
    assert cut[1] == tokenizer.decode(ids[:2])


def test_padding_has_no_text():
    ids, mask = padded([[3, 4], [5]])
    texts = TokenTexts(ids, mask, letters())
    assert [texts[0], texts[1]] == [["a", "b"], ["c"]]


def test_nothing_is_decoded_before_it_is_asked_for():
    class Refusing:
        def decode(self, *args, **kwargs):
            raise AssertionError("decoded")

    texts = TokenTexts(*padded([[3, 4]]), Refusing())
    assert len(texts) == 1
    with pytest.raises(AssertionError, match="decoded"):
        texts[0]
