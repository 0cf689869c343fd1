"""Lightning callbacks for reinforcement learning of language models.

They read the dict that ``training_step`` and ``validation_step`` return and nothing else of the
module, so any LightningModule that returns the keys they name can use them. The two that handle
weights, ``ReferenceSync`` and ``ExportHuggingFace``, find them by the names of attributes instead.
Only torch, torchmetrics and lightning are imported, and matplotlib where a picture is drawn.
"""

from lgrpo_callbacks.completion_logger import CompletionLogger
from lgrpo_callbacks.export_huggingface import ExportHuggingFace
from lgrpo_callbacks.jsonl import read_jsonl
from lgrpo_callbacks.kl_tracker import KLTracker
from lgrpo_callbacks.process_tree_monitor import ProcessTreeMonitor
from lgrpo_callbacks.reference_sync import ReferenceSync
from lgrpo_callbacks.reward_evaluator import RewardEvaluator

__all__ = [
    "CompletionLogger",
    "ExportHuggingFace",
    "KLTracker",
    "ProcessTreeMonitor",
    "ReferenceSync",
    "RewardEvaluator",
    "read_jsonl",
]
