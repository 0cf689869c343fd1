"""Both engines and the head on CUDA, compiled kernels included."""

import pytest
import torch

from lgrpo_lightning.policy import completion_logprobs, row_logprobs
from lgrpo_lightning.policy.head import selected_logprobs
from lgrpo_lightning.policy.logit_tiles import LogitTransform
from tests.policy.tiny_models import tiny_model, tree_batch


@pytest.mark.gpu
@pytest.mark.parametrize("engine", ["tree", "tree_flex"])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_engines_agree_on_cuda(family, checkpointing, engine):
    model = tiny_model(family, torch.float32, head_dim=16).cuda()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    gradients = []
    for way in ("padded", engine):
        batch = [part.cuda() for part in tree_batch(groups=3, size=6)]
        batch[1][:] = True  # eager attention has no answer for padding's own rows
        model.zero_grad()
        logprobs = completion_logprobs(model, *batch, engine=way)
        logprobs.square().sum().backward()
        gradients.append([logprobs] + [p.grad.clone() for p in model.parameters()])
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("engine", ["tree", "tree_flex"])
def test_mixed_precision_in_several_rows_on_cuda(engine):
    model = tiny_model("llama", torch.float32).cuda()  # heads of 4, less than a kernel takes
    prompt_ids, prompt_mask, ids, mask = (part.cuda() for part in tree_batch(groups=4, size=6))
    groups = torch.arange(4, device="cuda").repeat_interleave(6)
    rows = (prompt_ids, prompt_mask, ids.flatten(0, 1), mask.flatten(0, 1), groups)
    expected = row_logprobs(model, *rows, engine="padded")
    with torch.autocast("cuda", torch.bfloat16):
        found = row_logprobs(model, *rows, engine=engine, max_tokens_per_row=40)
    found.sum().backward()
    assert found.dtype == torch.float32
    assert (found - expected).abs().sum() / mask.sum() < 0.05
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())


@pytest.mark.gpu
def test_half_precision_on_cuda_keeps_the_logits_sums():
    torch.manual_seed(0)
    states = torch.randn(70, 256, dtype=torch.bfloat16, device="cuda", requires_grad=True)
    weight = torch.randn(3000, 256, dtype=torch.bfloat16, device="cuda", requires_grad=True)
    targets = torch.randint(0, 3000, (70,), device="cuda")
    found, entropy = selected_logprobs(
        states, weight, None, targets, LogitTransform(0.3), return_entropy=True, fused=True
    )
    every = (states.double() @ weight.double().T * 0.3).log_softmax(-1)
    expected = every.gather(1, targets.unsqueeze(1))[:, 0]
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    wanted = -(every.exp() * every).sum(-1)
    torch.testing.assert_close(entropy.double(), wanted, rtol=1e-3, atol=1e-3)
    gradients = torch.autograd.grad(found.sum(), (states, weight))
    for gradient, right in zip(
        gradients, torch.autograd.grad(expected.sum(), (states, weight)), strict=True
    ):
        assert (gradient - right).norm() < 0.02 * right.norm()
