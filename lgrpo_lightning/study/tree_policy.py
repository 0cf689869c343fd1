"""A small GPT-2 with the two tokens of the binary tree, as an ordinary Hugging Face folder."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar, enable_progress_bar

TOKENS = ("<pad>", "<end>", "<start>", "L", "R")
PROMPT = "<start>"


def make_tree_policy(folder: Path, seed: int, layers: int, width: int, heads: int) -> None:
    """Write a GPT-2 with random weights, GPT-2's own initialisation, and its tokenizer.

    L and R are equally likely at first, up to the noise of the initialisation.

    Args:
        folder: where; an existing one is left as it is.
        seed: of the weights.
        layers: transformer blocks.
        width: of the residual stream.
        heads: of attention.
    """
    if (folder / "config.json").exists():
        return
    splits = Tokenizer(models.WordLevel({token: i for i, token in enumerate(TOKENS)}, "<pad>"))
    splits.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    splits.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=splits, pad_token="<pad>", eos_token="<end>", bos_token="<start>"
    )
    config = GPT2Config(
        vocab_size=len(TOKENS),
        n_positions=16,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        pad_token_id=TOKENS.index("<pad>"),
        bos_token_id=TOKENS.index("<start>"),
        eos_token_id=TOKENS.index("<end>"),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(config)
    tokenizer.save_pretrained(str(folder))
    disable_progress_bar()  # type: ignore[no-untyped-call]
    model.save_pretrained(str(folder))
    enable_progress_bar()  # type: ignore[no-untyped-call]
