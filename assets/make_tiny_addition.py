r"""Make the quickstart's problem files and its tiny pretrained policy.

The task is addition with worked steps. From the least significant digit, each step adds two
digits and the incoming carry and writes the two-digit sum; the boxed answer ends the solution:

    Q:2914+1122=   4+2+0=06;1+2+0=03;9+1+0=10;2+1+1=04;\boxed{4036}<eos>

The policy is a Llama of about 108,000 parameters, trained on solutions that are right but for one
habit: three of four carries are forgotten, that is written as 0 in the next step, which then goes
on consistently to a wrong answer. Reinforcement learning has to find out that carrying pays.

Run it with ``python assets/make_tiny_addition.py --help``.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"
BOXED = "\\boxed{"
VOCABULARY = [PAD, EOS, UNK, *"0123456789", *"Q:+=;", BOXED, "}"]
MAX_NEW_TOKENS = 48  # the longest right solution has 44 tokens, end-of-sequence included
FORGET_RATE = 0.75
PROBLEMS, POLICY = "addition", "tiny-addition"  # folders written


class Problem(NamedTuple):
    """Two numbers of the same length, to be added."""

    left: int
    right: int

    @property
    def prompt(self) -> str:
        """What the policy is asked."""
        return f"Q:{self.left}+{self.right}="

    @property
    def answer(self) -> str:
        """What the solution has to box."""
        return str(self.left + self.right)


def write_solution(problem: Problem, keeps_carry: Callable[[], bool] = lambda: True) -> str:
    """Write the worked solution of a problem, digit by digit.

    Args:
        problem: the two numbers.
        keeps_carry: asked once for each carry of 1 into a further step; where it answers False,
            that step is written, and the answer boxed, as though the carry had been 0.

    Returns:
        The solution without the end-of-sequence token; right if every carry is kept.
    """
    steps, digits, carry = [], "", 0
    columns = list(zip(reversed(str(problem.left)), reversed(str(problem.right)), strict=True))
    for place, (left, right) in enumerate(columns):
        total = int(left) + int(right) + carry
        steps.append(f"{left}+{right}+{carry}={total:02d};")
        digits = f"{total % 10}{digits}"
        carry = total // 10
        if carry and place + 1 < len(columns) and not keeps_carry():
            carry = 0
    overflow = "1" if carry else ""
    return f"{''.join(steps)}{BOXED}{overflow}{digits}}}"


def problem_stream(rng: random.Random, taken: set[Problem]) -> Iterator[Problem]:
    """Yield random problems of three or four digits, never one of ``taken``, in either order."""
    while True:
        low = rng.choice((100, 1000))
        problem = Problem(rng.randrange(low, 10 * low), rng.randrange(low, 10 * low))
        if problem not in taken and Problem(problem.right, problem.left) not in taken:
            yield problem


def draw_problems(rng: random.Random, count: int, taken: set[Problem]) -> list[Problem]:
    """Draw ``count`` problems that differ from each other and from ``taken``, and take them."""
    stream = problem_stream(rng, taken)
    drawn: list[Problem] = []
    while len(drawn) < count:
        drawn.append(next(stream))
        taken.add(drawn[-1])
    return drawn


def build_tokenizer() -> PreTrainedTokenizerFast:
    r"""Build the character tokenizer: one token per character, but ``\boxed{`` is one token.

    It adds no beginning-of-sequence token (the prompt's ``Q`` starts every sequence), has pad and
    end-of-sequence apart, and gives any foreign character the token ``<unk>``.
    """
    vocabulary = {token: index for index, token in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\\boxed\{|[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # untyped in transformers
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        padding_side="left",
        model_max_length=128,
        clean_up_tokenization_spaces=False,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Build the untrained policy: a Llama of 2 layers, width 64, 4 heads."""
    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=MAX_NEW_TOKENS,  # transformers would stop after 20 without a limit
    )
    return model


def encode_solutions(
    tokenizer: PreTrainedTokenizerFast, problems: Sequence[Problem], solutions: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Encode prompts with their solutions: ids [B,P+T] and labels, -100 where nothing is learnt."""
    texts = [p.prompt + s + EOS for p, s in zip(problems, solutions, strict=True)]
    batch = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    prompt_lengths = torch.tensor([len(p.prompt) for p in problems])  # one token per character
    in_prompt = torch.arange(batch.input_ids.shape[1]) < prompt_lengths[:, None]
    ignored = in_prompt | (batch.attention_mask == 0)
    return batch.input_ids, batch.input_ids.masked_fill(ignored, -100)


def pretrain(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    rng: random.Random,
    heldout: set[Problem],
    steps: int,
    batch_size: int,
    peak_lr: float = 3e-3,
) -> None:
    """Train on fresh solutions with forgotten carries: AdamW, short warm-up, cosine to zero."""
    stream = problem_stream(rng, heldout)
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak_lr, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / 100, 0.5 * (1 + math.cos(math.pi * step / steps))),
    )
    model.train()
    started = time.monotonic()
    for step in range(1, steps + 1):
        problems = [next(stream) for _ in range(batch_size)]
        solutions = [write_solution(p, lambda: rng.random() >= FORGET_RATE) for p in problems]
        input_ids, labels = encode_solutions(tokenizer, problems, solutions)
        loss = model(input_ids=input_ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 250 == 0 or step == steps:
            seconds = time.monotonic() - started
            print(f"step {step}/{steps}  loss {loss.item():.4f}  {seconds:.0f} s", flush=True)
    model.train(False)


@torch.no_grad()
def accuracy(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    problems: Sequence[Problem],
    do_sample: bool = False,
) -> float:
    """Share of the problems whose completion boxes the right answer, greedy or sampled."""
    batch = tokenizer([p.prompt for p in problems], padding=True, return_tensors="pt")
    tokens: Tensor = model.generate(  # type: ignore[misc, assignment]  # overloads lost on models
        **batch, do_sample=do_sample, max_new_tokens=MAX_NEW_TOKENS
    )
    texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return sum(
        text.endswith(f";{BOXED}{p.answer}}}") for text, p in zip(texts, problems, strict=True)
    ) / len(problems)


def write_problems(path: Path, problems: Sequence[Problem]) -> None:
    """Write problems as JSON Lines with the columns ``prompt`` and ``answer``."""
    lines = [json.dumps({"prompt": p.prompt, "answer": p.answer}) for p in problems]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def move_into_place(new: Path, target: Path) -> None:
    """Move a finished folder to ``target``; a folder that lies there takes the place of ``new``."""
    displaced = new.with_name(f"{new.name}.displaced")
    if target.exists():
        target.rename(displaced)
    new.rename(target)


def positive(text: str) -> int:
    """Read a whole number of at least 1 from the command line."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is too few; give 1 or more")
    return number


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; refuse to go on where the folders exist and may not be replaced."""
    parser = argparse.ArgumentParser(
        description="Make the quickstart's addition problems and its tiny pretrained policy.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(__file__).resolve().parent,
        help="where the folders addition/ and tiny-addition/ go",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace folders already there")
    parser.add_argument("--seed", type=int, default=0, help="of problems, weights and solutions")
    parser.add_argument("--train", type=positive, default=4000, help="training problems to write")
    parser.add_argument("--heldout", type=positive, default=200, help="held-out problems to write")
    parser.add_argument("--steps", type=positive, default=1500, help="optimizer steps")
    parser.add_argument("--batch-size", type=positive, default=128, help="solutions per step")
    parser.add_argument(
        "--threads", type=positive, default=1, help="CPU threads; the weights depend on it"
    )
    args = parser.parse_args(arguments)
    for name in (PROBLEMS, POLICY):
        if (args.folder / name).exists() and not args.overwrite:
            parser.error(f"{args.folder / name} exists; add --overwrite to replace it")
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the problems, pretrain the policy, write both folders, print what was measured."""
    args = parse_arguments(arguments)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    heldout = draw_problems(rng, args.heldout, taken=set())
    train = draw_problems(rng, args.train, taken=set(heldout))

    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    pretrain(model, tokenizer, rng, set(heldout), args.steps, args.batch_size)
    print(f"held-out accuracy, greedy: {accuracy(model, tokenizer, heldout):.3f}")
    sampled = accuracy(model, tokenizer, heldout, do_sample=True)
    print(f"held-out accuracy, sampled at temperature 1: {sampled:.3f}")

    args.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.folder, prefix=".unfinished-") as scratch:
        problems, policy = Path(scratch, PROBLEMS), Path(scratch, POLICY)
        problems.mkdir()
        write_problems(problems / "train.jsonl", train)
        write_problems(problems / "heldout.jsonl", heldout)
        model.save_pretrained(policy)
        tokenizer.save_pretrained(policy)
        move_into_place(problems, args.folder / PROBLEMS)
        move_into_place(policy, args.folder / POLICY)
    print(f"wrote {args.folder / PROBLEMS} and {args.folder / POLICY}")


if __name__ == "__main__":
    main()
