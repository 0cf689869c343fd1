"""Time of a whole training step, λ-GRPO in Lightning against TRL's GRPOTrainer.

A step samples 8 completions of at most 64 tokens for each of 4 prompts of 256 tokens, scores them,
computes reference log-probs where β > 0, the loss, its gradient, and updates all weights by AdamW:
one rollout, one update, one optimizer step. Both sides load the same random model and have the same
prompts, reward and defaults otherwise; TRL runs its own default loss. Every run is a process of its
own and the contenders take turns; its CPU time, of all threads, on one thread, is counted from step
to step without the first, and the medians are compared. This package scores in a worker process,
whose time is not counted; the reward here takes microseconds.

Besides: the share of a step that λ itself takes, the process tree and its set sizes.

The last line is the figures as JSON.

    python -m benchmarks.step --steps 3 --turns 2
"""

import argparse
import contextlib
import io
import json
import logging
import multiprocessing
import statistics
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from lightning.pytorch import Callback, Trainer
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.optim import AdamW
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    TrainerCallback,
)
from transformers.utils.logging import disable_progress_bar

from benchmarks.rollout_contenders import MODELS
from benchmarks.step_reward import token_sum
from lgrpo_lightning.data import PromptGroupDataModule
from lgrpo_lightning.module import LambdaGRPO
from lgrpo_lightning.objective import LambdaGRPOLoss
from lgrpo_lightning.policy import PolicySettings
from lgrpo_lightning.rollout import SamplingSettings
from lgrpo_lightning.tree import ProcessTree

PROMPTS, GROUP, PROMPT, LENGTH, RATE = 4, 8, 256, 64, 1e-5
CONTENDERS = ("trl", "lgrpo")


@dataclass(frozen=True)
class Case:
    """Which model, and β."""

    model: str
    kl_coef: float


class Clock:
    """CPU seconds between calls of :meth:`tick`."""

    def __init__(self) -> None:
        self.last: float | None = None
        self.seconds: list[float] = []

    def tick(self) -> None:
        """A step has ended."""
        now = time.process_time()
        if self.last is not None:
            self.seconds.append(now - self.last)
        self.last = now


class LightningClock(Callback):
    """Ticks at the end of every step of Lightning's trainer."""

    def __init__(self) -> None:
        self.clock = Clock()

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """A step has ended."""
        self.clock.tick()


class TransformersClock(TrainerCallback):
    """Ticks at the end of every step of transformers' trainer."""

    def __init__(self) -> None:
        self.clock = Clock()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """A step has ended."""
        self.clock.tick()


def make_model(name: str, folder: Path) -> None:
    """Save a random Llama and a tokenizer whose tokens are words."""
    torch.manual_seed(0)
    size: Any = MODELS[name]
    config = LlamaConfig(
        **size,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    vocabulary = {f"w{i}": i for i in range(size["vocab_size"])}
    words = Tokenizer(models.WordLevel(vocabulary, "w2"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer: Any = PreTrainedTokenizerFast
    tokenizer(tokenizer_object=words, pad_token="w0", eos_token="w1").save_pretrained(folder)


def prompt_rows(name: str, steps: int) -> list[dict[str, Any]]:
    """Prompts for that many steps."""
    generator = torch.Generator().manual_seed(1)
    shape = (PROMPTS * steps, PROMPT)
    ids = torch.randint(2, int(MODELS[name]["vocab_size"]), shape, generator=generator)
    return [{"prompt": " ".join(f"w{i}" for i in row)} for row in ids.tolist()]


def trl_seconds(case: Case, folder: Path, steps: int) -> list[float]:
    """Steps of TRL's trainer."""
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    callback = TransformersClock()
    trainer = GRPOTrainer(
        model=str(folder),
        reward_funcs=token_sum,  # type: ignore[arg-type]
        args=GRPOConfig(
            output_dir=str(folder / "trl"),
            per_device_train_batch_size=PROMPTS * GROUP,
            num_generations=GROUP,
            max_completion_length=LENGTH,
            beta=case.kl_coef,
            learning_rate=RATE,
            weight_decay=0.0,
            lr_scheduler_type="constant",
            max_steps=steps,
            model_init_kwargs={"dtype": "float32"},
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            save_strategy="no",
            disable_tqdm=True,
            report_to=[],
        ),
        train_dataset=Dataset.from_list(prompt_rows(case.model, steps)),
        callbacks=[callback],
    )
    trainer.train()
    return callback.clock.seconds


def lgrpo_seconds(case: Case, folder: Path, steps: int) -> list[float]:
    """Steps of this package's module."""
    callback = LightningClock()
    module = LambdaGRPO(
        PolicySettings(str(folder)),
        rewards=["benchmarks.step_reward.token_sum"],
        group_size=GROUP,
        sampling=SamplingSettings(max_new_tokens=LENGTH),
        loss=LambdaGRPOLoss(kl_coef=case.kl_coef),
        optimizer=lambda parameters: AdamW(parameters, lr=RATE, weight_decay=0.0),
        seed=0,
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        gradient_clip_val=1.0,  # as transformers' trainer does by default
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback],
        default_root_dir=folder,
    )
    data = PromptGroupDataModule(prompt_rows(case.model, steps), prompts_per_rollout=PROMPTS)
    trainer.fit(module, data)
    return callback.clock.seconds


def run(case: Case, contender: str, steps: int) -> list[float]:
    """CPU seconds of each step but the first; to be called in a fresh process."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    disable_progress_bar()  # type: ignore[no-untyped-call]
    for name in ("lightning.pytorch", "transformers", "trl"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(case.model, folder)
        seconds = {"trl": trl_seconds, "lgrpo": lgrpo_seconds}[contender]
        return seconds(case, folder, steps + 1)


def in_fresh_process(case: Case, contender: str, steps: int) -> list[float]:
    """What :func:`run` returns there. No pool: its processes may have no children, rewards do."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=send, args=(sender, case, contender, steps))
    child.start()
    sender.close()
    seconds: list[float] = receiver.recv()  # EOFError if the child fails
    child.join()
    return seconds


def send(sender: Connection, case: Case, contender: str, steps: int) -> None:
    """Run, without what trainers print, and hand the seconds back."""
    with contextlib.redirect_stdout(io.StringIO()):
        seconds = run(case, contender, steps)
    sender.send(seconds)


def tree_seconds(vocabulary: int) -> float:
    """CPU seconds of the process tree and set sizes of one rollout; the median of many."""
    ids = torch.randint(vocabulary, (PROMPTS, GROUP, LENGTH))
    mask = torch.ones_like(ids, dtype=torch.bool)
    taken = []
    for _ in range(50):
        start = time.process_time()
        ProcessTree.from_completions(ids, mask).set_sizes.sum()
        taken.append(time.process_time() - start)
    return statistics.median(taken)


def main() -> None:
    """Time every case and print one row for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=3, help="counted steps of a run (default: 3)")
    parser.add_argument("--turns", type=int, default=2, help="runs of each side (default: 2)")
    parser.add_argument("--models", nargs="*", default=["tiny", "7M"], choices=MODELS)
    parser.add_argument("--kl", type=float, nargs="*", default=[0.0, 0.04], help="β")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | β | TRL, s | lgrpo, s | TRL ÷ lgrpo | λ's share |\n|---|---|---|---|---|---|")
    figures = []
    for case in (Case(model, kl) for model in arguments.models for kl in arguments.kl):
        taken: dict[str, list[float]] = {name: [] for name in CONTENDERS}
        for _ in range(arguments.turns):
            for name in CONTENDERS:
                taken[name] += in_fresh_process(case, name, arguments.steps)
        trl, own = (statistics.median(taken[name]) for name in CONTENDERS)
        tree = tree_seconds(int(MODELS[case.model]["vocab_size"]))
        figures.append({**asdict(case), "seconds": taken, "tree_seconds": tree})
        print(
            f"| {case.model} | {case.kl_coef} | {trl:.2f} | {own:.2f} | {trl / own:.2f} | "
            f"{tree / own:.2%} |",
            flush=True,
        )
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
