"""Weights in a form that can run code, as a stranger's model folder may hold them."""

import os
import shutil
import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from lgrpo_lightning.policy import PolicySettings, load_policy
from tests.module.runs import ADDITION


class Hostile:
    """Whose unpickling makes a folder."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def with_pickled_weights(folder, mark):
    """The tiny policy with a pickle in place of its weights."""
    shutil.copytree(ADDITION, folder)
    (folder / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Hostile(mark)}, folder / "pytorch_model.bin")


def with_pickled_adapter(folder, mark):
    """The tiny policy with an adapter, whose weights are a pickle."""
    base = AutoModelForCausalLM.from_pretrained(ADDITION)
    get_peft_model(base, LoraConfig(r=2)).save_pretrained(folder)
    shutil.copytree(ADDITION, folder, dirs_exist_ok=True)
    (folder / "adapter_model.safetensors").unlink()
    torch.save({"base_model.lora": Hostile(mark)}, folder / "adapter_model.bin")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (with_pickled_weights, r"refused, and nothing of it was run: .* with model\.safetensors"),
        (with_pickled_adapter, r"no model could be loaded .*adapter_model\.safetensors"),
    ],
)
def test_they_are_refused_and_do_nothing(tmp_path, make, message):
    folder, mark = tmp_path / "model", tmp_path / "was here"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft on layers whose names it guesses
        make(folder, mark)
    with pytest.raises(ValueError, match=message):
        load_policy(PolicySettings(str(folder)))
    assert not mark.exists()
