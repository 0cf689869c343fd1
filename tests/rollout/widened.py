"""The quickstart's policy with attention heads of size 32: vLLM does not serve 16 on CPUs.

It is the same function. A head of size 16 turns pairs (j, j + 8), j < 8, of its queries and keys
by the frequencies θ^(-j/8), which in a head of size 32 are those of the pairs (2j, 2j + 16). So
that is where they go; the rest is 0. Queries are multiplied by √2, since scores are then divided by
√32. What is 0 gets no gradient and stays 0: it is trained like the original, too.
"""

import shutil
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

ADDITION = Path(__file__).parents[2] / "assets" / "tiny-addition"
NARROW, WIDE = 16, 32


def widened(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of a Llama with heads of size 16, with heads of size 32."""
    config = LlamaConfig.from_dict(model.config.to_dict() | {"head_dim": WIDE})
    wide = LlamaForCausalLM(config)
    half = torch.arange(NARROW // 2)
    turned = torch.cat([2 * half, 2 * half + WIDE // 2])
    weights = model.state_dict()

    def spread(rows: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Rows of heads, [heads · 16, *] to [heads · 32, *]."""
        heads = rows.unflatten(0, (-1, NARROW))
        out = heads.new_zeros(len(heads), WIDE, *heads.shape[2:])
        out[:, places] = heads
        return out.flatten(0, 1)

    for name, weight in weights.items():
        if name.endswith("q_proj.weight"):
            weights[name] = spread(weight, turned) * 2**0.5
        elif name.endswith("k_proj.weight"):
            weights[name] = spread(weight, turned)
        elif name.endswith("v_proj.weight"):
            weights[name] = spread(weight, torch.arange(NARROW))
        elif name.endswith("o_proj.weight"):
            weights[name] = spread(weight.T, torch.arange(NARROW)).T
    wide.load_state_dict(weights)
    wide.generation_config = model.generation_config
    return wide


def write_widened(folder: Path) -> None:
    """Make it a Hugging Face folder."""
    widened(AutoModelForCausalLM.from_pretrained(ADDITION)).save_pretrained(folder)
    for file in ADDITION.glob("*token*"):
        shutil.copy(file, folder)


if __name__ == "__main__":
    write_widened(Path(sys.argv[1]))
