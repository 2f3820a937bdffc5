import numpy as np
import torch

from rl.adam import Adam


def test_a_step_is_that_of_the_paper():
    random = np.random.default_rng(0)
    weight, first, second = random.normal(size=50), np.zeros(50), np.zeros(50)
    tensor = torch.tensor(weight, dtype=torch.float32)
    optimizer = Adam([tensor], lr=0.01)
    for step in range(1, 6):
        grad = random.normal(size=50)
        first, second = 0.9 * first + 0.1 * grad, 0.999 * second + 0.001 * grad**2
        scale = np.sqrt(second / (1 - 0.999**step)) + 1e-8
        weight -= 0.01 * first / (1 - 0.9**step) / scale
        tensor.grad = torch.tensor(grad, dtype=torch.float32)
        optimizer.step()
    np.testing.assert_allclose(tensor, weight, atol=1e-6)


def test_the_rate_is_what_sb3_writes_into_the_group():
    tensor = torch.zeros(3)
    tensor.grad = torch.ones(3)
    optimizer = Adam([tensor], lr=0.01)
    optimizer.param_groups[0]["lr"] = 0.5
    optimizer.step()
    assert torch.allclose(tensor, torch.full((3,), -0.5))


def test_forgotten_derivatives_are_gone():
    tensor = torch.zeros(3)
    tensor.grad = torch.ones(3)
    Adam([tensor], lr=0.01).zero_grad()
    assert tensor.grad is None
