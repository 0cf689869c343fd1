"""Without process-set scaling the objective is TRL's: rollouts, advantages, loss and gradient.

Everything but the log-probs is TRL's own code: GRPOTrainer samples with a tiny Llama, scores,
computes advantages and old and reference log-probs, and then its loss. The log-probs are computed
in float64 here, as TRL's fused head works in float32; the last test leaves that head in place.
"""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lgrpo_lightning.objective import (
    LambdaGRPOLoss,
    LossInputs,
    group_advantages,
    row_denominators,
)

pytestmark = [  # advice of the libraries to each other
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

PROMPTS = ["abc", "d", "hgfab"]  # of different lengths, so that there is left padding
GENERATIONS = 4
LENGTH = 6
ROWS = len(PROMPTS) * GENERATIONS

# TRL's loss_type → our aggregation
AGGREGATIONS = {
    "dapo": "token-mean",
    "cispo": "token-mean",
    "grpo": "seq-mean-token-mean",
    "dr_grpo": "seq-mean-token-sum-norm",
}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 12 tokens and its tokenizer: letters, pad and end."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny")
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<eos>", *"abcdefghij"])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>"
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).double().save_pretrained(folder)
    return folder


def logprobs_and_entropies(
    model: torch.nn.Module, ids: torch.Tensor, mask: torch.Tensor, kept: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the last ``kept`` tokens, in the precision of the model."""
    logits = model(input_ids=ids, attention_mask=mask).logits[:, -kept - 1 : -1]
    every = logits.log_softmax(-1)
    chosen = every.gather(-1, ids[:, -kept:].unsqueeze(-1)).squeeze(-1)
    return chosen, -(every.exp() * every).sum(-1)


def shift(model: torch.nn.Module, seed: int) -> None:
    """Move the policy, as updates would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(0.05 * noise)


@pytest.fixture
def rollout(model_folder: Path, tmp_path: Path) -> Callable[..., SimpleNamespace]:
    """Builds a GRPOTrainer and lets it make one rollout."""
    trl = pytest.importorskip("trl", reason="TRL is what the objective is compared with")
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    class DoubleTrainer(trl.GRPOTrainer):
        def _get_per_token_logps_and_entropies(  # type: ignore[no-untyped-def]
            self, model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
        ):
            parts = logprobs_and_entropies(model, input_ids, attention_mask, logits_to_keep)
            return *parts, None

    def make(
        rewards: list[float | None] | None = None, fused: bool = False, **options: Any
    ) -> SimpleNamespace:
        scores = rewards or [(i * 7 % 5) / 4 for i in range(ROWS)]
        arguments = {
            "per_device_train_batch_size": ROWS,
            "steps_per_generation": 1,
            "gradient_accumulation_steps": 1,
            "use_bias_correction_kl": False,  # would multiply the KL term by the ratio
        }
        config = trl.GRPOConfig(
            str(tmp_path),
            use_cpu=True,
            report_to="none",
            num_generations=GENERATIONS,
            max_completion_length=LENGTH,
            gradient_checkpointing=False,
            bf16=False,
            **arguments | options,
        )
        trainer = (trl.GRPOTrainer if fused else DoubleTrainer)(
            AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float64),
            lambda completions, **columns: scores,
            args=config,
            train_dataset=Dataset.from_dict({"prompt": PROMPTS}),
            processing_class=AutoTokenizer.from_pretrained(model_folder),
        )
        trainer.current_gradient_accumulation_steps = config.gradient_accumulation_steps
        trainer.model.train()
        shift(trainer.model, seed=1)  # away from the reference
        examples = [{"prompt": prompt} for prompt in PROMPTS for _ in range(GENERATIONS)]
        batch = trainer._generate_and_score_completions(examples)
        if config.num_iterations > 1:
            assert "old_per_token_logps" in batch
            shift(trainer.model, seed=2)  # away from the policy that sampled
        return SimpleNamespace(trainer=trainer, batch=batch)

    return make


def our_loss(made: SimpleNamespace, loss: LambdaGRPOLoss, aggregation: str) -> Any:
    batch = made.batch
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    mask = batch["completion_mask"].bool()
    logprobs, _ = logprobs_and_entropies(made.trainer.model, ids, attention, mask.shape[1])
    groups = mask.view(len(PROMPTS), GENERATIONS, -1)
    denominators = row_denominators(groups, aggregation, norm_length=LENGTH)
    return loss(
        LossInputs(
            logprobs=logprobs,
            old_logprobs=batch.get("old_per_token_logps", logprobs.detach()),
            ref_logprobs=batch.get("ref_per_token_logps"),
            advantages=batch["advantages"],
            mask=mask,
            set_sizes=torch.full_like(batch["completion_ids"], 3),  # unused: scaling is off
            denominators=denominators.flatten(),
        )
    )


def gradient_of(made: SimpleNamespace, loss: torch.Tensor) -> torch.Tensor:
    parts = torch.autograd.grad(loss, list(made.trainer.model.parameters()))
    return torch.cat([part.flatten() for part in parts])


def assert_equal_losses(
    made: SimpleNamespace, ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 1e-9
) -> None:
    assert ours.item() == pytest.approx(theirs.item(), rel=tolerance)
    gradient, expected = gradient_of(made, ours), gradient_of(made, theirs)
    assert expected.norm() > 1e-3
    assert (gradient - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize("iterations", [1, 2], ids=["on-policy", "off-policy"])
@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo", "cispo"])
def test_loss_and_gradient(rollout, loss_type, beta, iterations):
    cispo = loss_type == "cispo"
    options = {"epsilon_high": 1.2} if cispo else {}  # for cispo the bound itself, 1 + ε
    made = rollout(loss_type=loss_type, beta=beta, num_iterations=iterations, **options)
    loss = LambdaGRPOLoss(False, "cispo" if cispo else "ppo", kl_coef=beta)
    ours = our_loss(made, loss, AGGREGATIONS[loss_type])
    theirs = made.trainer._compute_loss(made.trainer.model, made.batch)
    assert_equal_losses(made, ours.loss, theirs)
    clipped = ours.metrics["clipped_low"] + ours.metrics["clipped_high"]
    assert (clipped > 0) == (iterations == 2)
    assert beta == 0 or ours.metrics["kl"] > 0.01


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"epsilon": 0.1, "epsilon_high": 0.3}, {"clip_low": 0.1, "clip_high": 0.3}),
        ({"delta": 1.5}, {"dual_clip": 1.5}),
        ({"importance_sampling_level": "sequence"}, {"surrogate": "gspo"}),
        (
            {"importance_sampling_level": "sequence", "epsilon": 3e-2, "epsilon_high": 4e-2},
            {"surrogate": "gspo", "clip_low": 3e-2, "clip_high": 4e-2},
        ),
    ],
    ids=["clip-higher", "dual-clip", "gspo", "gspo-clipped"],
)
@pytest.mark.parametrize("loss_type", ["dapo", "grpo"])
def test_clipping_and_sequence_ratios(rollout, loss_type, theirs, ours):
    made = rollout(loss_type=loss_type, beta=0.04, num_iterations=2, **theirs)
    loss = LambdaGRPOLoss(False, kl_coef=0.04, **ours)
    assert_equal_losses(
        made,
        our_loss(made, loss, AGGREGATIONS[loss_type]).loss,
        made.trainer._compute_loss(made.trainer.model, made.batch),
    )


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo"])
def test_trl_accumulated_over_micro_batches(rollout, loss_type):
    """TRL's micro-batches of six rows cut through the groups of four; ours are the whole batch."""
    made = rollout(
        loss_type=loss_type,
        per_device_train_batch_size=ROWS // 2,
        steps_per_generation=2,
        gradient_accumulation_steps=2,
    )
    theirs = torch.zeros((), dtype=torch.float64)
    for start in (0, ROWS // 2):
        rows = slice(start, start + ROWS // 2)
        part = {k: v if v.dim() == 0 else v[rows] for k, v in made.batch.items()}
        theirs = theirs + made.trainer._compute_loss(made.trainer.model, part)
    assert_equal_losses(
        made, our_loss(made, LambdaGRPOLoss(False), AGGREGATIONS[loss_type]).loss, theirs
    )


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages(rollout, scale):
    """With rewards that do not apply, a group with one reward only, and one of equal rewards."""
    rewards = [1.0, None, 0.0, 0.5, None, None, 2.0, None, 0.3, 0.3, 0.3, 0.3]
    made = rollout(rewards=rewards, scale_rewards=scale)
    known = torch.tensor([torch.nan if reward is None else reward for reward in rewards])
    ours = group_advantages(known.view(-1, GENERATIONS), scale)
    # TRL leaves 3e-8 / 1e-4 of rounding where rewards are equal; ours is exactly 0.
    torch.testing.assert_close(ours.flatten(), made.batch["advantages"], rtol=1e-6, atol=1e-3)
    assert not ours[2].any()


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo"])
def test_trl_with_its_own_log_probs(rollout, loss_type):
    """Nothing of TRL replaced: equal to the precision of its float32 head."""
    made = rollout(fused=True, loss_type=loss_type, beta=0.04, num_iterations=2)
    ours = our_loss(made, LambdaGRPOLoss(False, kl_coef=0.04), AGGREGATIONS[loss_type]).loss
    theirs = made.trainer._compute_loss(made.trainer.model, made.batch)
    assert_equal_losses(made, ours, theirs, tolerance=1e-4)
