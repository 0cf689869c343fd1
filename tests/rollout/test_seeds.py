"""Seeds depend on the place and nothing else; the global state stays as it was."""

import pytest
import torch

from lgrpo_lightning.rollout import derive_seed, seeded


def test_seed_is_a_fixed_function_of_the_parts():
    assert derive_seed(0, 1, "rollout", 2, 3) == derive_seed(0, 1, "rollout", 2, 3)
    assert derive_seed(7) == 4703935488074688627  # the same on every machine and in every version


def test_seeds_of_different_places_differ():
    places = [(a, b, name) for a in range(4) for b in range(4) for name in ("rollout", "dropout")]
    assert len({derive_seed(*place) for place in places}) == len(places)
    assert derive_seed(1, 12) != derive_seed(11, 2)


def test_seed_is_one_torch_takes():
    assert all(0 <= derive_seed(part) < 2**63 for part in range(200))


def test_the_global_state_is_put_back_also_after_an_error():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    with seeded(1, torch.device("cpu")):
        first = torch.rand(3)
    assert torch.equal(torch.random.get_rng_state(), before)
    with pytest.raises(RuntimeError, match="as it happens"), seeded(1, torch.device("cpu")):
        fail(first)
    assert torch.equal(torch.random.get_rng_state(), before)


def fail(first):
    """Use the seeded state, then raise."""
    assert torch.equal(torch.rand(3), first)
    raise RuntimeError("as it happens")
