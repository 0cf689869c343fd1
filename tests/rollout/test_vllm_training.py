"""The quickstart with vLLM, for real: in the training processes, and from a server."""

import csv
import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.rollout.widened import write_widened

ROOT = Path(__file__).parents[2]
SECONDS = 900  # for anything that is started here, on a busy machine
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": f"{ROOT}:{ROOT / 'callbacks'}",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_SERVER_DEV_MODE": "1",
}
SERVE = [
    "--dtype=float32",
    "--enforce-eager",
    "--logprobs-mode=processed_logprobs",
    "--generation-config=vllm",
    '--hf-overrides={"tie_word_embeddings": false}',
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2 * SECONDS),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wide")
    write_widened(folder)
    return folder


@pytest.fixture(scope="module")
def server(policy):
    """The address of a server of that policy."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    module = "vllm.entrypoints.openai.api_server"
    place = ["--model", policy, "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        [sys.executable, "-m", module, *place, *SERVE],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            break
        except OSError:
            time.sleep(1)
    yield url
    process.terminate()
    process.wait()


def train(folder, policy, *options):
    """What the command line logs of a run, by the names of figures."""
    command = [sys.executable, "-m", "lgrpo_lightning", "fit", "-c", "configs/quickstart.yaml"]
    fixed = ["--model.policy.path", policy, "--model.sampler", "vllm", "--runs", folder]
    done = subprocess.run(
        [*command, *fixed, *options],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    (file,) = Path(folder).rglob("metrics.csv")
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    return {name: [float(row[name]) for row in rows if row[name]] for name in rows[0]}


def check_weights(figures, steps):
    """Every rollout was sampled from weights that had changed since the one before."""
    assert len(figures["train/sampler_gap"]) == steps
    assert max(figures["train/sampler_gap"]) < 1e-5
    moved = figures["kl/ref"]
    assert moved[0] == 0
    assert moved[-1] > 1e-5


COLOCATED = ["--model.vllm.engine", "{enforce_eager: true}", "--model.vllm.memory", "0.1"]
SHORT = ["--trainer.max_steps", "3", "--trainer.num_sanity_val_steps", "0"]
TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.prompts_per_rollout", "8"]
SHARDED = ["-c", "configs/fsdp2.yaml", "--trainer.accelerator", "cpu", "--trainer.devices", "2"]
SHARDED += ["--trainer.precision", "32-true", "--data.prompts_per_rollout", "8"]


def test_the_quickstart_learns(tmp_path, policy):
    figures = train(tmp_path, policy, *COLOCATED)
    check_weights(figures, 60)
    assert figures["eval/pass@1"][0] < 0.4
    assert figures["eval/pass@1"][-1] > 0.9


@pytest.mark.parametrize("strategy", [TWO, SHARDED], ids=["ddp", "fsdp2"])
def test_every_process_has_an_engine(tmp_path, policy, strategy):
    check_weights(train(tmp_path, policy, *strategy, *COLOCATED, *SHORT), 3)


@pytest.mark.parametrize("strategy", [[], TWO, SHARDED], ids=["one process", "ddp", "fsdp2"])
def test_a_server_follows_the_policy(tmp_path, policy, server, strategy):
    place = ["--model.vllm.mode", "server", "--model.vllm.urls", f"[{server}]"]
    check_weights(train(tmp_path, policy, *strategy, *place, *SHORT), 3)


def test_dynamic_sampling_asks_a_server_again(tmp_path, policy, server):
    place = ["--model.vllm.mode", "server", "--model.vllm.urls", f"[{server}]"]
    dynamic = ["--model.dynamic_sampling.max_rounds", "2"]
    figures = train(tmp_path, policy, *place, *SHORT, *TWO, *dynamic)
    check_weights(figures, 3)
    assert max(figures["train/resampled_groups"]) > 0
