"""Random models on disk, beside the tiny policy of the quickstart."""

import logging
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.module.runs import ADDITION

EXPECTED_WARNINGS = [
    "The dirpath has changed from",  # a resumed run writes into another folder than the first one
    r"Found \d+ module\(s\) in eval mode",  # the reference
    "Total length of `list` across ranks is zero",  # no prompts to evaluate
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
]


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            for message in EXPECTED_WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(f"ignore:{message}"))


@pytest.fixture(autouse=True)
def quiet():
    """Lightning's remarks on hardware and checkpoints are not what these tests look at."""
    logger = logging.getLogger("lightning.pytorch")
    before = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(before)


@pytest.fixture(scope="session")
def random_model(tmp_path_factory):
    """Save a random model of a family, with the tokenizer of the tiny policy; give its folder."""
    made: dict[str, Path] = {}

    def make(family: str, **options) -> str:
        key = f"{family}-{sorted(options.items())}"
        if key not in made:
            made[key] = tmp_path_factory.mktemp(family)
            torch.manual_seed(0)
            config = AutoConfig.for_model(
                family, vocab_size=20, pad_token_id=0, eos_token_id=1, bos_token_id=1, **options
            )
            model = AutoModelForCausalLM.from_config(config)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter) * 0.2)
            model.save_pretrained(made[key])
            for file in Path(ADDITION).glob("tokenizer*"):
                shutil.copy(file, made[key])
        return str(made[key])

    return make


@pytest.fixture(scope="session")
def gpt2(random_model):
    """A model that computes in float64 throughout when asked to, which Llama's norms do not."""
    return random_model("gpt2", n_embd=16, n_layer=2, n_head=2, n_positions=64)
