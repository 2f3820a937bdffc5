import torch
from torch import nn

from policy_server.backends.network import Layer
from rl.networks import Networks


def plain(layers: list[Layer]) -> nn.Sequential:
    modules: list[nn.Module] = []
    for layer in layers:
        linear = nn.Linear(*layer.weight.shape)
        linear.weight.data, linear.bias.data = layer.weight.t().clone(), layer.bias.clone()
        modules.append(linear)
        if layer.gain is not None:
            norm = nn.LayerNorm(layer.gain.shape[0])
            norm.weight.data, norm.bias.data = layer.gain.clone(), layer.offset.clone()
            modules += [norm, nn.ReLU()]
    return nn.Sequential(*modules)


def shaken(count: int, sizes: tuple[int, ...]) -> Networks:
    """Return networks whose gains and offsets are not those of a fresh LayerNorm."""
    networks = Networks(count, sizes)
    with torch.no_grad():
        networks.flat += 0.1 * torch.randn_like(networks.flat)
    return networks


def flat_gradient(network: nn.Sequential) -> torch.Tensor:
    return torch.cat([parameter.grad.t().flatten() for parameter in network.parameters()])


def test_outputs_and_weight_derivatives_are_those_of_plain_modules():
    torch.manual_seed(0)
    networks = shaken(2, (7, 16, 12, 3))
    x, wanted = torch.randn(9, 7), torch.randn(2, 9, 3)
    outputs = networks.trained(x)
    sum((o * w).sum() for o, w in zip(outputs, wanted, strict=True)).backward()
    gradients = []
    for layers, output, w in zip(networks.layers, outputs, wanted, strict=True):
        reference = plain(layers)
        expected = reference(x)
        (expected * w).sum().backward()
        torch.testing.assert_close(output, expected)
        gradients.append(flat_gradient(reference))
    torch.testing.assert_close(networks.flat.grad, torch.cat(gradients), rtol=1e-4, atol=1e-5)


def test_action_derivatives_are_those_of_plain_modules():
    torch.manual_seed(1)
    networks = shaken(2, (7, 16, 12, 1))
    given, wanted = torch.randn(9, 5), torch.randn(2, 9, 1)
    choices = [torch.randn(9, 2).requires_grad_() for _ in range(2)]
    choices[1].data.copy_(choices[0].data)
    outputs = networks.steered(given, choices[0])
    sum((o * w).sum() for o, w in zip(outputs, wanted, strict=True)).backward()
    x = torch.cat([given, choices[1]], dim=1)
    references = [plain(layers)(x) for layers in networks.layers]
    sum((o * w).sum() for o, w in zip(references, wanted, strict=True)).backward()
    torch.testing.assert_close(outputs[1], references[1])
    torch.testing.assert_close(choices[0].grad, choices[1].grad, rtol=1e-4, atol=1e-6)


def test_steering_leaves_the_weights_without_derivatives():
    networks = Networks(2, (4, 8, 8, 1))
    choice = torch.randn(3, 2).requires_grad_()
    sum(networks.steered(torch.randn(3, 2), choice)).sum().backward()
    assert networks.flat.grad is None


def test_values_are_those_that_are_trained():
    networks = shaken(2, (4, 8, 8, 1))
    x = torch.randn(5, 4)
    with torch.no_grad():
        for value, trained in zip(networks.values(x), networks.trained(x), strict=True):
            assert torch.equal(value, trained)


def test_a_few_networks_can_be_asked_alone():
    networks, x = shaken(4, (7, 16, 1)), torch.randn(9, 7)
    everyone = networks.values(x)
    for index, value in zip((3, 1), networks.values(x, among=(3, 1)), strict=True):
        assert torch.equal(value, everyone[index])
