"""The prefix tree of a group of completions: process sets, weights, step means, statistics."""

from lgrpo_lightning.tree.process_tree import ProcessTree

__all__ = ["ProcessTree"]
