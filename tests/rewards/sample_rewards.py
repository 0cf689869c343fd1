"""Reward functions that the tests load by path: good ones, and every kind of bad one."""

import asyncio
import atexit
import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from lgrpo_lightning.rewards import completion_text, reward_traits

CALLS = 0


def lengths(prompts, completions, completion_ids, **columns):
    return [float(len(completion_text(completion))) for completion in completions]


def tokens(completion_ids):
    return [len(ids) for ids in completion_ids]


def only_answers(completions, answer):
    return [
        float(completion == expected)
        for completion, expected in zip(completions, answer, strict=True)
    ]


async def sleeps(prompts, completions, completion_ids, **columns):
    async def one(completion):
        await asyncio.sleep(0.2)
        return float(completion)

    return await asyncio.gather(*map(one, completions))


def slow(prompts, completions, completion_ids, **columns):
    start = time.monotonic()
    time.sleep(0.4)
    return [start] * len(completions)


def slower(prompts, completions, completion_ids, **columns):
    return slow(prompts, completions, completion_ids)


def counts_calls(prompts, completions, completion_ids, **columns):
    global CALLS
    CALLS += 1
    return [float(CALLS)] * len(completions)


def process_ids(prompts, completions, completion_ids, **columns):
    return [float(os.getpid())] * len(completions)


@reward_traits(per_completion=True)
def process_ids_each(prompts, completions, completion_ids, **columns):
    return [float(os.getpid())]


@reward_traits(per_completion=True)
def number(prompts, completions, completion_ids, **columns):
    time.sleep(0.002)
    return [float(completions[0])]


def odd_only(prompts, completions, completion_ids, **columns):
    return [None if int(c) % 2 == 0 else float(c) for c in completions]


def does_not_apply(prompts, completions, completion_ids, **columns):
    return [None] * len(completions)


def raises(prompts, completions, completion_ids, **columns):
    raise KeyError("no such thing")


def exits(prompts, completions, completion_ids, **columns):
    sys.exit("I am leaving")


def dies(prompts, completions, completion_ids, **columns):
    os._exit(3)


def segfaults(prompts, completions, completion_ids, **columns):
    ctypes.string_at(0)


def ignores_signals(prompts, completions, completion_ids, **columns):
    for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while True:
        try:
            time.sleep(0.01)
        except BaseException:
            continue


def stops(prompts, completions, completion_ids, **columns):
    os.kill(os.getpid(), signal.SIGSTOP)


def killed(prompts, completions, completion_ids, **columns):
    os.kill(os.getpid(), signal.SIGKILL)


class Diary:
    """Writes its last line when its process ends."""

    def __init__(self, path):
        def write():
            time.sleep(0.2)
            Path(path).write_text("the end")

        atexit.register(write)

    def __call__(self, completions, **columns):
        return [0.0] * len(completions)


def backtracks(prompts, completions, completion_ids, **columns):
    """Holds the interpreter lock for ages, so that no Python thread can stop it."""
    return [float(bool(re.match(r"(a+)+$", "a" * 60 + "b"))) for _ in completions]


def hangs_if_told(prompts, completions, completion_ids, **columns):
    if "hang" in completions:
        time.sleep(60)
    return [1.0] * len(completions)


def starts_a_program(prompts, completions, completion_ids, **columns):
    program = subprocess.Popen(["sleep", "60"])
    with open(completions[0], "w") as file:
        file.write(str(program.pid))
    program.wait()


@reward_traits(per_completion=True)
def culprits(prompts, completions, completion_ids, **columns):
    """1.0, unless the completion says what else to do."""
    match completions[0]:
        case "hang":
            time.sleep(60)
        case "die":
            os._exit(3)
        case "raise":
            raise ValueError("culprit")
        case "nan":
            return [float("nan")]
    return [1.0]


def prints(prompts, completions, completion_ids, **columns):
    print("printed by the reward")
    print("complained by the reward", file=sys.stderr)
    return [0.0] * len(completions)


def returns(prompts, completions, completion_ids, **columns):
    """What the column 'result' says, evaluated in the worker."""
    import numpy as np

    return eval(columns["result"][0], {"np": np})


def needs_answer(prompts, completions, completion_ids, answer, **columns):
    return [float(c == a) for c, a in zip(completions, answer, strict=True)]


def _no_negative(columns):
    for row, value in enumerate(columns["answer"]):
        if value < 0:
            raise ValueError(f"row {row}: {value} is negative")


@reward_traits(check_references=_no_negative)
def checked(prompts, completions, completion_ids, answer, **columns):
    return [0.0] * len(completions)


def _broken_check(columns):
    raise KeyError("a mistake in the check")


@reward_traits(check_references=_broken_check)
def broken_check(prompts, completions, completion_ids, **columns):
    return [0.0] * len(completions)


class Scaled:
    """A class with arguments."""

    def __init__(self, factor, offset=0.0):
        if factor == 0:
            raise ValueError("factor must not be 0")
        self.factor = factor
        self.offset = offset

    def __call__(self, prompts, completions, completion_ids, **columns):
        return [self.factor * len(c) + self.offset for c in completions]


class AsyncClass:
    """A class whose call is a coroutine; the event loop outlives a call."""

    def __init__(self):
        self.loops = set()

    async def __call__(self, completions, **columns):
        self.loops.add(asyncio.get_running_loop())
        return [float(len(self.loops))] * len(completions)


class NotCallable:
    """No reward at all."""


def positional(prompts, completions, completion_ids, /):
    return [0.0] * len(completions)


not_a_function = 7
