"""How tests with tensors of a few elements run on any machine."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

# No deadline: the first call into torch is slow, and machines differ.
settings.register_profile("lgrpo", deadline=None, max_examples=60)
settings.load_profile("lgrpo")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads cost far more than they give at this size, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
