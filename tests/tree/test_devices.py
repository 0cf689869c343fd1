"""The process tree on an accelerator."""

import pytest
import torch

from lgrpo_lightning.tree import ProcessTree


@pytest.mark.gpu
@pytest.mark.parametrize("length", [0, 1, 200])
def test_a_cuda_device_gives_the_same_tree(length):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 3, (4, 8, length), generator=generator)
    lengths = torch.randint(0, length + 1, (4, 8, 1), generator=generator)
    mask = torch.arange(length) < lengths
    expected = ProcessTree.from_completions(ids, mask)
    tree = ProcessTree.from_completions(ids.cuda(), mask.cuda())
    for name in ("order", "overlaps", "set_sizes", "representatives", "path_depth", "num_nodes"):
        assert torch.equal(getattr(tree, name).cpu(), getattr(expected, name)), name
    rewards = torch.rand(4, 8, generator=generator)
    torch.testing.assert_close(tree.step_means(rewards.cuda()).cpu(), expected.step_means(rewards))
