import torch
from forward_forward import ForwardForward, ForwardForwardRule, laid_over, layered
from torch import nn

from effdl.datasets.batch import Batch
from effdl.testing import check_method, images, perceptron, problem


def test_it_keeps_the_contract_of_all_methods():
    check_method(ForwardForward(epochs=2))


def test_limit_a_layers_gradient_is_that_of_two_logistic_regressions():
    """∂L/∂z of ½ m samples of each kind: −σ(θ − g) 2z/H on true ones, σ(g − θ) 2z/H on false ones, over m, where z > 0."""
    x = torch.randn(8, 5, dtype=torch.float64)
    rule = ForwardForwardRule(nn.Sequential(nn.Sequential(nn.Linear(5, 7), nn.ReLU())), 3, threshold=0.3).double()
    rule.learn(Batch(x, torch.zeros(8, dtype=torch.long), torch.arange(8)), 0)
    (weight, bias) = rule.parameters()
    z = (x @ weight.T + bias).clamp(min=0)
    g = (z**2).sum(1) / 7
    share = torch.cat([-1 / (1 + torch.exp(g[:4] - 0.3)), 1 / (1 + torch.exp(0.3 - g[4:]))])
    by_hand = share[:, None] * 2 * z / 7 / 8
    torch.testing.assert_close(weight.grad, by_hand.T @ x)
    torch.testing.assert_close(bias.grad, by_hand.sum(0))


def test_a_saved_network_ends_at_the_layer_that_was_chosen():
    for chosen in (0, 1):
        network = ForwardForward().network(perceptron(), problem().facts, None, {"segment/chosen": chosen})
        assert network(images(4, 0).x).shape == (4, 3) and len(network.chain) == chosen + 1


def test_half_of_a_batch_bears_its_labels_and_half_any_others():
    y = torch.arange(600) % 3
    batch = Batch(torch.full((600, 1, 4, 4), 7, dtype=torch.uint8), y, torch.arange(600))
    rule = ForwardForwardRule(nn.Sequential(nn.Linear(16, 2)), 3, 2.0)
    made, again = (rule.prepare(batch, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(made.x, again.x) and made.x.dtype == torch.uint8
    assert (made.x.flatten(1)[:, 3:] == 7).all()
    true, false = made.x.flatten(1)[:, :3].argmax(1).chunk(2)
    assert torch.equal(true, y) and (false != y).all()
    assert ((false - y) % 3 == 1).double().mean().sub(0.5).abs() < 0.1
    assert torch.equal(made.index, torch.arange(600).repeat(2))
    assert torch.equal(laid_over(torch.zeros(1, 4), torch.tensor([1]), 3), torch.tensor([[0.0, 1, 0, 0]]))


def test_goodness_below_does_not_reach_a_layer():
    model = perceptron()
    chain, x = layered(model), torch.rand(4, 1, 6, 6)
    with torch.no_grad():
        before = chain(x)
        model.blocks[0][1][0].weight.mul_(50)
        model.blocks[0][1][0].bias.mul_(50)
        torch.testing.assert_close(chain(x), before, rtol=1e-3, atol=1e-3)
