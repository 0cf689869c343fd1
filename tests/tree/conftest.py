"""Hypothesis for small tensors on any machine."""

from hypothesis import settings

# No deadline: the first call into torch is slow, and machines differ.
settings.register_profile("lgrpo", deadline=None, max_examples=60)
settings.load_profile("lgrpo")
