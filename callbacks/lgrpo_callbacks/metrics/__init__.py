"""Metrics of sampled completions: pure functions, and torchmetrics that keep sums and counts."""

from lgrpo_callbacks.metrics.bootstrap import bootstrap_interval
from lgrpo_callbacks.metrics.kl import kl_estimates
from lgrpo_callbacks.metrics.majority import MajorityAtK, majority_at_k
from lgrpo_callbacks.metrics.masked_means import MaskedMeans, MeansAndWeights
from lgrpo_callbacks.metrics.pass_at_k import PassAtK, pass_at_k
from lgrpo_callbacks.metrics.process_tree import (
    advantage_weights,
    intermediate_proportion,
    path_depth,
)

__all__ = [
    "MajorityAtK",
    "MaskedMeans",
    "MeansAndWeights",
    "PassAtK",
    "advantage_weights",
    "bootstrap_interval",
    "intermediate_proportion",
    "kl_estimates",
    "majority_at_k",
    "pass_at_k",
    "path_depth",
]
