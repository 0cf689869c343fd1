"""Parts of the GPU study: its sizes, the pretrained policy, one training run, what λ costs."""

import json
import math
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import AdamW
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from assets.make_tiny_addition import Problem, build_tokenizer, encode_solutions, write_solution
from lgrpo_callbacks import RewardEvaluator
from lgrpo_lightning.data import PromptGroupDataModule
from lgrpo_lightning.module import LambdaGRPO
from lgrpo_lightning.objective import LambdaGRPOLoss
from lgrpo_lightning.policy import Engine, PolicySettings
from lgrpo_lightning.rollout import SamplerName, SamplingSettings
from lgrpo_lightning.tree import ProcessTree

CUDA = torch.cuda.is_available()


@dataclass(frozen=True)
class Scale:
    """Sizes of the study.

    Attributes:
        width, layers, heads: of the Llama; its feed-forward layers are three times as wide.
        digits: lengths of the numbers to be added.
        forget: share of the carries that are forgotten in pretraining.
        pretrain_seconds, pretrain_batch, pretrain_lr: of pretraining, whose schedule is the clock.
        prompts, group: prompts of a rollout and completions for each.
        steps, evaluate_every: optimizer steps of a run and between its evaluations.
        problems, samples: held-out problems, and completions sampled for each.
    """

    width: int
    layers: int
    heads: int
    digits: tuple[int, ...]
    forget: float
    pretrain_seconds: float
    pretrain_batch: int
    pretrain_lr: float
    prompts: int
    group: int
    steps: int
    evaluate_every: int
    problems: int
    samples: int

    @property
    def tokens(self) -> int:
        """The longest solution: 9 tokens a digit, its digits in a box, a carry, the end."""
        return 10 * max(self.digits) + 4


SCALES = {
    "tiny": Scale(32, 1, 2, (2,), 0.6, 8.0, 64, 3e-3, 4, 4, 4, 2, 16, 2),
    "46M": Scale(768, 6, 12, (4, 5), 0.6, 45.0, 256, 6e-4, 32, 8, 40, 5, 256, 4),
}


@dataclass(frozen=True)
class Job:
    """One training run.

    Attributes:
        seed: of the order of the prompts and of sampling.
        rate: learning rate.
        scaling: λ on or off.
    """

    seed: int
    rate: float
    scaling: bool


def draw(scale: Scale, seed: int) -> Iterator[Problem]:
    """Random problems, without end."""
    rng = random.Random(seed)
    while True:
        low = 10 ** (rng.choice(scale.digits) - 1)
        yield Problem(rng.randrange(low, 10 * low), rng.randrange(low, 10 * low))


def write_problems(scale: Scale, folder: Path) -> None:
    """Training and held-out problems, none of them twice."""
    unique = dict.fromkeys(problem for problem, _ in zip(draw(scale, 1), range(6000), strict=False))
    rows = [json.dumps({"prompt": p.prompt, "answer": p.answer}) for p in unique]
    (folder / "heldout.jsonl").write_text("\n".join(rows[: scale.problems]) + "\n")
    (folder / "train.jsonl").write_text("\n".join(rows[scale.problems :]) + "\n")


def pretrain(scale: Scale, folder: Path, seconds: float, tell: Callable[[str], None]) -> int:
    """Train a Llama on solutions with forgotten carries, and save it.

    Returns:
        Its number of weights.
    """
    start = time.monotonic()
    device = torch.device("cuda" if CUDA else "cpu")
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=scale.width,
        intermediate_size=3 * scale.width,
        num_hidden_layers=scale.layers,
        num_attention_heads=scale.heads,
        num_key_value_heads=scale.heads,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with device:
        model = LlamaForCausalLM(config).train()
    optimizer = AdamW(model.parameters(), lr=scale.pretrain_lr, betas=(0.9, 0.99))
    heldout = {json.loads(line)["prompt"] for line in (folder / "heldout.jsonl").open()}
    problems = (p for p in draw(scale, 2) if p.prompt not in heldout)
    rng = random.Random(3)
    losses: list[torch.Tensor] = []
    while (gone := time.monotonic() - start) < seconds:
        batch = [next(problems) for _ in range(scale.pretrain_batch)]
        solutions = [write_solution(p, lambda: rng.random() >= scale.forget) for p in batch]
        ids, labels = encode_solutions(tokenizer, batch, solutions)
        warm, rest = (
            min(1.0, (len(losses) + 1) / 100),
            0.5 * (1 + math.cos(math.pi * gone / seconds)),
        )
        for group in optimizer.param_groups:
            group["lr"] = scale.pretrain_lr * min(warm, rest)
        with torch.autocast(device.type, torch.bfloat16, enabled=CUDA):
            loss = model(input_ids=ids.to(device), labels=labels.to(device)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
        if len(losses) % 100 == 0:
            tell(f"pretraining step {len(losses)}: loss {losses[-1].item():.4f}")
    tell(f"pretraining: {len(losses)} steps, loss {losses[-1].item():.4f}")
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder / "policy")
    tokenizer.save_pretrained(folder / "policy")
    return sum(parameter.numel() for parameter in model.parameters())


class StepClock(Callback):
    """Seconds of each training step, its rollout included, with the device waited for.

    Attributes:
        seconds: one for each step.
        outputs: what the last training step returned.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.outputs: Any = None
        self._start = 0.0

    def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Callbacks come before the module, which samples then."""
        self._start = now()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's own union
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """The optimizer has stepped."""
        self.seconds.append(now() - self._start)
        self.outputs = outputs


def now() -> float:
    """The clock, once the device has done what it was asked to."""
    if CUDA:
        torch.cuda.synchronize()
    return time.monotonic()


def train(
    scale: Scale,
    folder: Path,
    job: Job,
    engine: Engine,
    sampler: SamplerName,
    evaluate: bool = True,
) -> tuple[dict[str, Any], StepClock]:
    """One run of LambdaGRPO under Lightning's Trainer, from the pretrained policy.

    Returns:
        ``curve`` [[optimizer step, held-out pass@1]], ``step_seconds`` (median without the first),
        ``seconds`` of the whole run; and the clock, with what the last step returned.
    """
    start, clock, evaluator = now(), StepClock(), RewardEvaluator()
    sampling = SamplingSettings(max_new_tokens=scale.tokens)
    module = LambdaGRPO(
        PolicySettings(str(folder / "policy")),
        rewards=["lgrpo_lightning.rewards.boxed_match_reward"],
        group_size=scale.group,
        sampling=sampling,
        evaluation=sampling,
        eval_completions=scale.samples,
        loss=LambdaGRPOLoss(process_set_scaling=job.scaling, kl_coef=0.04),
        engine=engine,
        sampler=sampler,
        optimizer=lambda parameters: AdamW(parameters, lr=job.rate, weight_decay=0.0),
        seed=job.seed,
    )
    data = PromptGroupDataModule(
        str(folder / "train.jsonl"),
        eval_path=str(folder / "heldout.jsonl"),
        prompts_per_rollout=scale.prompts,
        eval_prompts_per_batch=scale.problems,
        seed=job.seed,
    )
    with tempfile.TemporaryDirectory() as root:
        trainer = Trainer(
            accelerator="gpu" if CUDA else "cpu",
            devices=1,
            precision="bf16-mixed" if CUDA else "32-true",
            max_steps=scale.steps if evaluate else 8,
            gradient_clip_val=1.0,
            val_check_interval=scale.evaluate_every,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=-1 if evaluate else 0,
            limit_val_batches=1.0 if evaluate else 0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[clock, evaluator],
            default_root_dir=root,
        )
        trainer.fit(module, data)
    curve = [[record["step"], record["metrics"]["eval/pass@1"]] for record in evaluator.history]
    return {
        "curve": curve,
        "step_seconds": statistics.median(clock.seconds[1:]),
        "seconds": now() - start,
    }, clock


def lambda_cost(
    scale: Scale, folder: Path, engine: Engine, sampler: SamplerName
) -> dict[str, float]:
    """Seconds of a step, and of the process tree, its set sizes and weights, of its completions."""
    record, clock = train(scale, folder, Job(0, 0.0, True), engine, sampler, evaluate=False)
    order = clock.outputs["group"].argsort(
        stable=True
    )  # the step had all completions, in any order
    shape = (scale.prompts, scale.group, -1)
    ids, mask = (clock.outputs[name][order].view(shape) for name in ("completion_ids", "mask"))
    taken = []
    for _ in range(30):
        start = now()
        ProcessTree.from_completions(ids, mask).weights()
        taken.append(now() - start)
    return {
        "step_seconds": record["step_seconds"],
        "tree_seconds": statistics.median(taken),
        "tokens": float(mask.sum()),
    }
