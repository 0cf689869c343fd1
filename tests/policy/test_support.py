"""Which models the tree engine takes, and what it says about the others."""

import pytest
from transformers import BloomConfig, FalconConfig, MambaConfig, OPTConfig, T5Config
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from lgrpo_lightning.policy import completion_logprobs, resolve_engine
from tests.policy.tiny_models import tiny_model, tree_batch

REFUSED = {
    "bloom": (BloomConfig(), "ALiBi"),
    "falcon with ALiBi": (FalconConfig(alibi=True), "ALiBi"),
    "t5": (T5Config(), "encoder-decoder"),
    "mamba": (MambaConfig(), "layers of type linear_attention"),
    "opt": (OPTConfig(), "not among the families"),
    "qwen3_next": (CONFIG_MAPPING["qwen3_next"](), "layers of type linear_attention"),
    "llama4_text": (CONFIG_MAPPING["llama4_text"](), "layers of type chunked_attention"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_models_that_cannot_be_served_are_refused_with_the_reason(name):
    config, reason = REFUSED[name]
    with pytest.raises(ValueError, match=f"{reason}.*engine: padded"):
        resolve_engine(config, "tree")
    engine, why = resolve_engine(config, "auto")
    assert engine == "padded"
    assert reason in why


def test_auto_takes_the_tree_where_it_can():
    model = tiny_model("llama")
    assert resolve_engine(model, "auto")[0] == "tree"
    assert resolve_engine(model.config, "auto")[0] == "tree"
    assert resolve_engine(model, "padded")[0] == "padded"
    with pytest.raises(ValueError, match="'fast'"):
        resolve_engine(model, "fast")


def test_a_model_that_drops_the_tree_on_the_way_is_found_out(monkeypatch):
    # A family wrongly listed: its attention runs on its own implementation, unaware of the tree.
    monkeypatch.setattr(
        "lgrpo_lightning.policy.support.TREE_FAMILIES", frozenset({"stablelm", "llama"})
    )
    with pytest.raises(ValueError, match=r"attention.*engine: padded"):
        completion_logprobs(tiny_model("stablelm"), *tree_batch())
