"""Checks of training on one CUDA device, with figures; a failed one does not stop the rest.

A random Llama of Qwen2.5-0.5B's shape (24 layers, width 896, vocabulary 151,936) trains for a few
steps under every strategy and precision; the quickstart's policy is resumed and compared to the
bit. The last line is a JSON object of all results.

    python -m benchmarks.gpu_checks                          # everything
    python -m benchmarks.gpu_checks --only resume lora       # some
    python -m benchmarks.gpu_checks --device cpu --small     # to try the script itself
"""

import argparse
import contextlib
import gc
import importlib.util
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from lgrpo_lightning.data import PromptGroupDataModule
from lgrpo_lightning.fsdp2 import FSDP2Strategy
from lgrpo_lightning.module import LambdaGRPO
from lgrpo_lightning.objective import LambdaGRPOLoss
from lgrpo_lightning.policy import LoRASettings, PolicySettings
from lgrpo_lightning.rollout import SamplingSettings
from lgrpo_lightning.tree import ProcessTree

ROOT = Path(__file__).parents[1]
ADDITION = str(ROOT / "assets" / "tiny-addition")
REWARD = f"{Path(__file__).with_name('step_reward.py')}:token_sum"
MEBIBYTE = 2**20

Figures = dict[str, Any]


class Measured(LambdaGRPO):
    """Notes the peak memory of training steps and of rollouts, and the time of both."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:  # noqa: ANN401
        """Make a rollout, measured."""
        with self._measured("rollout"):
            super().on_train_batch_start(batch, batch_idx)

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:  # noqa: ANN401
        """One micro-batch; its backward pass is within the peak."""
        reset_peak(self.device)
        return super().training_step(batch, batch_idx)

    @contextlib.contextmanager
    def _measured(self, name: str) -> Any:  # noqa: ANN401
        reset_peak(self.device)
        start = now(self.device)
        yield
        notes = self.__dict__.setdefault("notes", {})
        notes.setdefault(f"{name}_seconds", []).append(round(now(self.device) - start, 3))
        notes[f"{name}_peak_mib"] = peak(self.device)


class Notes(Callback):
    """Peak memory and time of every training step, and its loss."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.peaks: list[float] = []
        self.losses: list[float] = []
        self._start = 0.0

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:  # noqa: ANN401
        """Start the clock."""
        self._start = now(trainer.strategy.root_device)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:  # noqa: ANN401
        """Stop it."""
        device = trainer.strategy.root_device
        self.seconds.append(round(now(device) - self._start, 3))
        self.peaks.append(peak(device))
        self.losses.append(float(outputs["loss"]))


def now(device: torch.device) -> float:
    """Seconds, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def reset_peak(device: torch.device) -> None:
    """Count the peak from here."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> float:
    """The allocator's peak in MiB; 0 on a CPU."""
    return round(torch.cuda.max_memory_allocated(device) / MEBIBYTE) if device.type == "cuda" else 0


class Bench:
    """The checks of one machine.

    Args:
        device: ``"gpu"`` or ``"cpu"``, as the trainer calls it.
        small: take a model of a test's size.
        folder: for models and checkpoints.
    """

    def __init__(self, device: str, small: bool, folder: Path) -> None:
        self.device = device
        self.small = small
        self.folder = folder
        self.model = str(self._save_model())
        self.step_seconds: float | None = None

    def _save_model(self) -> Path:
        """A random Llama of Qwen2.5-0.5B's shape and a tokenizer of words."""
        words = {f"w{number}": number for number in range(200)}
        tokenizer = Tokenizer(models.WordLevel({**words, "<end>": 200, "<pad>": 201}, "w0"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
            tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>"
        )
        folder = self.folder / "model"
        fast.save_pretrained(folder)
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=1000 if self.small else 151_936,
            hidden_size=64 if self.small else 896,
            intermediate_size=128 if self.small else 4864,
            num_hidden_layers=2 if self.small else 24,
            num_attention_heads=4 if self.small else 14,
            num_key_value_heads=2,
            max_position_embeddings=32_768,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=200,
            pad_token_id=201,
        )
        LlamaForCausalLM(config).save_pretrained(folder)
        return folder

    def train(
        self,
        policy: PolicySettings | None = None,
        steps: int = 2,
        prompt: int = 128,
        rows: int = 4,
        ckpt_path: Path | None = None,
        module: Figures | None = None,
        **trainer: Any,  # noqa: ANN401 - the trainer's own
    ) -> tuple[Measured, Figures]:
        """Train with AdamW, β and real sampling; a rollout is ``rows`` prompts × 8 completions."""
        notes = Notes()
        options: Figures = {
            "group_size": 8,
            "micro_batch_size": 16,
            "sampling": SamplingSettings(max_new_tokens=64),
            "loss": LambdaGRPOLoss(kl_coef=0.04),
            "optimizer": lambda parameters: torch.optim.AdamW(parameters, lr=1e-4),
            "seed": 0,
            **(module or {}),
        }
        built = Measured(policy or PolicySettings(self.model), [REWARD], **options)
        texts = [
            {"prompt": " ".join(f"w{(17 * row + at * at) % 199}" for at in range(prompt))}
            for row in range(4 * rows)
        ]
        if policy is not None and policy.path == ADDITION:
            texts = [{"prompt": f"Q:{row + 11}+{3 * row}="} for row in range(4 * rows)]
        runner = Trainer(
            accelerator=self.device,
            devices=1,
            max_steps=steps,
            accumulate_grad_batches=rows * 8 // options["micro_batch_size"],
            gradient_clip_val=1.0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[notes],
            **trainer,
        )
        data = PromptGroupDataModule(texts, prompts_per_rollout=rows, seed=0)
        runner.fit(built, datamodule=data, ckpt_path=ckpt_path)
        if runner.global_step != steps:
            raise RuntimeError(f"{runner.global_step} of {steps} steps were made")
        if not all(torch.isfinite(torch.tensor(notes.losses))):
            raise RuntimeError(f"losses are not finite: {notes.losses}")
        figures = {
            "seconds_of_training_steps": notes.seconds,
            "training_peak_mib": max(notes.peaks),
            "losses": [round(loss, 5) for loss in notes.losses],
            **built.__dict__["notes"],
        }
        for name in ("train/sampler_gap", "train/tokens_per_second"):
            figures[name] = round(float(runner.callback_metrics[name]), 5)
        self.trainer = runner
        return built, figures

    def check_ddp(self) -> Figures:
        """bf16-mixed under ddp on one device."""
        _, figures = self.train(steps=3, strategy="ddp", precision="bf16-mixed")
        self.step_seconds = sum(figures["seconds_of_training_steps"][-2:])
        return figures

    def check_fsdp2(self) -> Figures:
        """The same by FSDP2."""
        strategy = FSDP2Strategy()
        module, figures = self.train(strategy=strategy, precision="bf16-mixed")
        self.trainer.save_checkpoint(self.folder / "fsdp2.ckpt")
        saved = torch.load(self.folder / "fsdp2.ckpt", weights_only=True, mmap=True)
        figures["whole_tensors"] = len(saved["state_dict"])
        if saved["state_dict"].keys() != module.state_dict().keys():
            raise RuntimeError("the checkpoint lacks weights")
        return figures

    def check_fsdp2_lora(self) -> Figures:
        """FSDP2 with an adapter."""
        strategy = FSDP2Strategy()
        policy = PolicySettings(self.model, lora=LoRASettings(r=16, alpha=32))
        return self.train(policy, strategy=strategy, precision="bf16-mixed")[1]

    def check_resume(self) -> Figures:
        """4 steps at once equal 2 and 2, to the bit, with deterministic algorithms."""
        figures: Figures = {}
        for engine in ("padded", "tree"):
            for deterministic in (True, "warn"):
                name = f"{engine}, deterministic={deterministic}"
                try:
                    figures[name] = self._resumed(engine, deterministic)
                except Exception as error:  # the other cases still tell something
                    traceback.print_exc()
                    figures[name] = f"{type(error).__name__}: {str(error)[:300]}"
        if any(value != "equal" for value in figures.values()):
            raise RuntimeError(json.dumps(figures))
        return figures

    def _resumed(self, engine: str, deterministic: bool | str) -> str:
        def run(steps: int, ckpt_path: Path | None = None) -> dict[str, torch.Tensor]:
            options: Figures = {"engine": engine, "group_size": 8, "micro_batch_size": 16}
            options["sampling"] = SamplingSettings(max_new_tokens=24)
            module, _ = self.train(
                PolicySettings(ADDITION),
                steps=steps,
                rows=4,
                ckpt_path=ckpt_path,
                module=options,
                deterministic=deterministic,
            )
            return {name: value.cpu().clone() for name, value in module.state_dict().items()}

        try:
            whole = run(4)
            again = run(4)
            run(2)
            self.trainer.save_checkpoint(self.folder / "half.ckpt")
            resumed = run(4, self.folder / "half.ckpt")
        finally:
            torch.use_deterministic_algorithms(False)
        if any(not torch.equal(whole[name], again[name]) for name in whole):
            return "two uninterrupted runs differ"
        differ = [name for name in whole if not torch.equal(whole[name], resumed[name])]
        return f"{len(differ)} of {len(whole)} tensors differ" if differ else "equal"

    def check_half(self) -> Figures:
        """16-mixed, with a gradient scaler."""
        return self.train(precision="16-mixed" if self.device == "gpu" else "bf16-mixed")[1]

    def check_tree_memory(self) -> Figures:
        """Peak of a training step by the tree engine and by the padded one, prompts of 512."""
        figures: Figures = {}
        for engine in ("tree", "padded"):
            _, found = self.train(
                prompt=512, module={"engine": engine}, precision="bf16-mixed", steps=1
            )
            figures[engine] = {
                name: found[name] for name in ("training_peak_mib", "seconds_of_training_steps")
            }
        if figures["tree"]["training_peak_mib"] > figures["padded"]["training_peak_mib"]:
            raise RuntimeError(json.dumps(figures))
        return figures

    def check_lora(self) -> Figures:
        """An adapter on weights in bfloat16, with gradient checkpointing."""
        policy = PolicySettings(
            self.model,
            dtype="bfloat16",
            gradient_checkpointing=True,
            lora=LoRASettings(r=16, alpha=32),
        )
        return self.train(policy, precision="bf16-true")[1]

    def check_reference_cpu(self) -> Figures:
        """The reference in the CPU's memory."""
        policy = PolicySettings(self.model, reference_device="cpu")
        return self.train(policy, precision="bf16-mixed")[1]

    def check_compile(self) -> Figures:
        """Compiled blocks, by the padded engine."""
        policy = PolicySettings(self.model, compile=True)
        return self.train(policy, precision="bf16-mixed")[1]

    def check_four_bits(self) -> Figures:
        """An adapter on weights in four bits; left out without bitsandbytes."""
        if importlib.util.find_spec("bitsandbytes") is None:
            return {"skipped": "bitsandbytes is not installed"}
        policy = PolicySettings(
            self.model, dtype="bfloat16", lora=LoRASettings(r=16), quantization="4bit"
        )
        return self.train(policy, precision="bf16-mixed")[1]

    def check_lambda_share(self) -> Figures:
        """What the process tree of a rollout takes, beside a step of ddp."""
        device = self.trainer.strategy.root_device
        ids = torch.randint(0, 3, (4, 8, 64), device=device)
        mask = torch.ones_like(ids, dtype=torch.bool)
        times = []
        for _ in range(20):
            start = now(device)
            ProcessTree.from_completions(ids, mask).weights(torch.float32)
            times.append(now(device) - start)
        taken = sorted(times)[len(times) // 2]
        share = taken / self.step_seconds if self.step_seconds else None
        return {"milliseconds": round(taken * 1e3, 3), "share_of_step": share}

    def check_command_line(self) -> Figures:
        """The quickstart by the command line, with configs/ddp.yaml."""
        command = [
            *(sys.executable, "-m", "lgrpo_lightning", "fit", "-c", "configs/quickstart.yaml"),
            *("-c", "configs/ddp.yaml", "--trainer.accelerator", self.device),
            *("--trainer.devices", "1", "--trainer.max_steps", "10", "--runs", str(self.folder)),
            *("--trainer.enable_progress_bar", "false"),
        ]
        paths = [str(ROOT), str(ROOT / "callbacks"), os.environ.get("PYTHONPATH", "")]
        # Without what Lightning said in here of its own processes.
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in {"MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"}
        }
        ended = subprocess.run(
            command,
            cwd=ROOT,
            env=environment | {"PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        if ended.returncode:
            raise RuntimeError(ended.stderr[-3000:])
        return {"output": ended.stdout[-600:]}


CHECKS = (
    *("ddp", "fsdp2", "half", "tree_memory", "lora", "fsdp2_lora"),
    *("resume", "lambda_share", "command_line", "reference_cpu", "four_bits", "compile"),
)


def run_check(name: str, check: Callable[[], Figures]) -> dict[str, Any]:
    """Run one check and print what came of it."""
    start = time.perf_counter()
    result: dict[str, Any]
    try:
        result = {"passed": True, **check()}
    except Exception as error:  # the point of this script is to go on
        traceback.print_exc()
        result = {"passed": False, "error": f"{type(error).__name__}: {str(error)[:1500]}"}
    result["seconds"] = round(time.perf_counter() - start, 1)
    print(f"{'PASS' if result['passed'] else 'FAIL'} {name} {json.dumps(result)}", flush=True)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return result


def main() -> None:
    """Run the checks and print their results, the last line as one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--small", action="store_true", help="a model of a test's size")
    parser.add_argument("--only", nargs="*", choices=CHECKS, default=CHECKS)
    arguments = parser.parse_args()
    disable_progress_bar()  # type: ignore[no-untyped-call]
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    # Lightning sets it too, but after CUDA has begun.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    name = torch.cuda.get_device_name() if arguments.device == "gpu" else "CPU"
    print(f"{name}, torch {torch.__version__}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(arguments.device, arguments.small, Path(folder))
        results = {
            check: run_check(check, getattr(bench, f"check_{check}")) for check in arguments.only
        }
    print(json.dumps({"device": name, **results}))


if __name__ == "__main__":
    main()
