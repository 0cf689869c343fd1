"""Metrics that are right over micro-batches and processes: sums and counts, no means of means."""

from lgrpo_lightning.metrics.named_means import NamedMeans
from lgrpo_lightning.metrics.throughput import Throughput

__all__ = ["NamedMeans", "Throughput"]
