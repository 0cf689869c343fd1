"""Metrics of sampled completions: pure functions, and torchmetrics that keep sums and counts."""

from lgrpo_callbacks.metrics.bootstrap import bootstrap_interval
from lgrpo_callbacks.metrics.kl import kl_estimates
from lgrpo_callbacks.metrics.masked_means import MaskedMeans, MeansAndWeights
from lgrpo_callbacks.metrics.pass_at_k import PassAtK, pass_at_k

__all__ = [
    "MaskedMeans",
    "MeansAndWeights",
    "PassAtK",
    "bootstrap_interval",
    "kl_estimates",
    "pass_at_k",
]
