"""Packaging of lgrpo-lightning: `lgrpo_lightning` and, from callbacks/, `lgrpo_callbacks`."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def read_version() -> str:
    """Return `__version__` of the package without importing it (importing may need torch)."""
    source = (ROOT / "lgrpo_lightning" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', source, re.MULTILINE)
    if match is None:
        raise RuntimeError('lgrpo_lightning/__init__.py has no line __version__ = "…"')
    return match.group(1)


# Lower bounds are the oldest release with the interfaces used here; the exact versions that the
# tests ran with are in constraints.txt.
INSTALL_REQUIRES = [
    "torch>=2.9",  # tensors, models, optimizers
    "lightning>=2.6",  # the training loop, strategies, callbacks and LightningCLI
    "transformers>=5.14",  # policies and tokenizers
    "safetensors>=0.4",  # weights on their way to a vLLM server
    "tokenizers>=0.20",  # the two-letter tokenizer of the binary-tree study
    "torchmetrics>=1.4",  # sums and counts that stay exact across ranks
    "datasets>=3",  # prompts from the hub, JSON, Parquet, CSV or saved folders
    "numpy>=1.26",  # the shuffled order of the prompts, the same on every platform
    "pyarrow>=15",  # reads Parquet and tells what is wrong with a file
    "jinja2>=3.1",  # chat templates; its error says what a template refuses
    "jsonargparse[signatures]>=4.50",  # LightningCLI's parser: YAML and command line from types
    "PyYAML",  # reads a run's settings for the report
    "math-verify[antlr4-13-2]>=0.8",  # decides whether two mathematical answers are equal
    "tensorboard",  # the default logger
]

PLOTS = ["matplotlib>=3.8"]  # ProcessTreeMonitor draws trees; without it only their data is written
LORA = ["peft>=0.21"]  # low-rank adapters; the reference is then the adapter switched off
TERMINAL = ["rich>=13"]  # CompletionLogger's tables in the terminal; plain text without it
TEST = [
    "pytest>=8",
    "pytest-timeout",  # a hanging process group must not hang the run
    "pytest-xdist",  # the quick tests on two cores
    "playwright",  # drives an installed Chromium through the report
    "hypothesis",  # property tests against brute-force definitions
    "setuptools>=77",  # the wheel that the packaging test builds
    "trl",  # the reference implementation that the plain GRPO losses are compared with
    *LORA,
    *PLOTS,
    *TERMINAL,
]
EXTRAS_REQUIRE = {
    "lora": LORA,
    "plots": PLOTS,
    "rich": TERMINAL,
    "4bit": [*LORA, "bitsandbytes>=0.45"],  # frozen weights in 4 bits under an adapter
    "vllm": ["vllm"],  # a faster sampler
    "wandb": ["wandb"],  # logging to Weights & Biases
    "test": TEST,
    "dev": [
        *TEST,
        "ruff",  # linter and formatter
        "mypy",  # type checker, strict
        "types-PyYAML",  # PyYAML's types
        "pre-commit",  # runs ruff and mypy before each commit
    ],
}

setup(
    name="lgrpo-lightning",
    version=read_version(),
    description="Fine-tune causal language models with λ-GRPO in PyTorch Lightning",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["lgrpo_lightning*"]) + find_packages("callbacks"),
    package_dir={"lgrpo_callbacks": "callbacks/lgrpo_callbacks"},
    package_data={
        "lgrpo_lightning": ["py.typed", "report/static/*", "report/static/vendor/*/*"],
        "lgrpo_callbacks": ["py.typed"],
    },
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    entry_points={"console_scripts": ["lgrpo = lgrpo_lightning.cli:main"]},
    classifiers=[
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
