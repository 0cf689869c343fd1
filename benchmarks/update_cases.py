"""The models and contenders of benchmarks/update.py and benchmarks/update_memory.py."""

import tempfile
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.update_groups import Group, Update, engine, own_update, plain_logprobs


def llama(vocabulary: int, layers: int = 6, width: int = 256, inner: int = 688) -> LlamaForCausalLM:
    """A random Llama in train mode; as it stands the trunk of 5 M parameters of the tables."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        max_position_embeddings=8192,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model: LlamaForCausalLM = LlamaForCausalLM(config).train()
    return model


def contender(name: str, model: LlamaForCausalLM, group: Group) -> Update:
    """One update (log-probs, loss, backward; no optimizer) by name: tree, padded, plain or trl."""
    device = model.device
    batch = tuple(part.to(device) for part in group.tensors(model.config.vocab_size))
    if name == "trl":
        return trl_update(model, batch)
    return own_update(model, batch, plain_logprobs if name == "plain" else engine(name))


def trl_update(model: LlamaForCausalLM, batch: tuple[Tensor, ...]) -> Update:
    """What TRL's GRPOTrainer computes for the same tokens, with its defaults."""
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    prompt_ids, prompt_mask, ids, mask = batch
    size = ids.shape[1]
    folder = tempfile.mkdtemp()
    on_cpu = model.device.type == "cpu"
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=no_reward,
        args=GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=size,
            num_generations=size,
            use_cpu=on_cpu,
            bf16=False,
            gradient_checkpointing=False,
            disable_dropout=True,
            report_to=[],
        ),
        train_dataset=Dataset.from_dict({"prompt": ["a"] * size}),
        processing_class=word_tokenizer(),
    )
    inputs = {
        "prompt_ids": prompt_ids.expand(size, -1),
        "prompt_mask": prompt_mask.expand(size, -1).long(),
        "completion_ids": ids[0],
        "completion_mask": mask[0].long(),
        "advantages": torch.linspace(-1, 1, size, device=ids.device),
        "num_items_in_batch": mask.sum(),
    }
    trainer.current_gradient_accumulation_steps = 1

    def update() -> None:
        model.zero_grad()
        trainer.compute_loss(trainer.model, inputs).backward()

    return update


def no_reward(completions: list[str], **columns: Any) -> list[float | None]:  # noqa: ANN401
    """A reward that TRL can hold; nothing is scored here."""
    return [0.0 for _ in completions]


def word_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that TRL can hold; nothing is tokenized here."""
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "a": 3}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="a"))
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
