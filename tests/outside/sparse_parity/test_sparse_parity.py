import torch
from sparse_parity import SparseParity

from effdl.archs.mlp import Mlp
from effdl.datasets.dataset import split
from effdl.datasets.problem import Problem
from effdl.methods.backprop import Backprop
from effdl.methods.segmentwise import Segmentwise
from effdl.objectives.losses import SoftmaxCe
from effdl.testing import check_method


def test_samples_are_others_in_each_epoch_of_the_same_parity_and_the_validation_set_stays():
    data = SparseParity(samples=300, bits=6, of_bits=2, val_size=100)
    train, test = data.load()
    problem = Problem(*split(data, train, 0), SoftmaxCe(), outputs=2, batch_size=50)
    epochs = [[*problem.train(number)] for number in (0, 1, 0)]
    first, second, again = (torch.cat([batch.x for batch in epoch]).unique(dim=0, return_counts=True)[1] for epoch in epochs)
    # How often each of the 64 patterns comes, in whatever order
    assert problem.varies and torch.equal(first, again) and not torch.equal(first, second)
    for x, y in [(batch.x, batch.y) for epoch in epochs for batch in epoch] + [(test.x, test.y)]:
        assert torch.equal(y, (x[:, 0] == x[:, 1]).long())
    assert all(torch.equal(a.x, b.x) for a, b in zip(problem.val(), problem.val(), strict=True))


def test_methods_keep_their_contract_on_it():
    data = SparseParity(samples=60, bits=6, of_bits=2, val_size=20)
    problem = Problem(*split(data, data.load()[0], 0), SoftmaxCe(), outputs=2, batch_size=8)

    def network(seed):
        torch.manual_seed(seed)
        return Mlp(hidden=(8,)).build(data.facts())

    for method in (Backprop(epochs=2), Segmentwise(epochs=2)):
        check_method(method, on=problem, network=network)
