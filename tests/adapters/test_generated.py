import copy
import pickle

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from qpeft.adapters import generated
from qpeft.adapters.generated import GeneratedLinear, WeightSource


class Bank(generated.Bank):
    """Two factors from one parameter, and a count of how often they are made."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([2.0]))
        self.register_buffer("offset", torch.tensor(1.0))
        self.runs = 0

    layers, num_frozen = ("layer",), 1

    def forward(self):
        self.runs += 1
        base = torch.arange(6.0)
        vector = self.scale * base + self.offset
        return {"layer": {"A": vector.view(2, 3), "B": vector.square().view(3, 2)}}


def forward_pass(source):
    """What the model's hooks do around a pass that reads the weights twice."""
    source.begin_forward()
    _, factors = source["layer"], source["layer"]
    source.end_forward()
    return factors


@pytest.fixture
def bank():
    return Bank()


@pytest.fixture
def source(bank):
    return WeightSource(bank)


def test_without_gradients_it_runs_once_while_nothing_changes(bank, source):
    with torch.no_grad():
        for _ in range(3):
            assert forward_pass(source)["A"].tolist() == [[1, 3, 5], [7, 9, 11]]
    assert bank.runs == 1


def test_each_training_pass_has_a_graph_of_its_own(bank, source):
    for expected in (1, 2, 3):
        factors = forward_pass(source)
        (factors["A"].sum() + factors["B"].sum()).backward()
        assert bank.runs == expected


class Drawing(Bank):
    """Draws in training mode."""

    draws = True

    def forward(self):
        self.runs += 1
        drawn = 5 + self.scale.detach().sin().abs()  # follows from the numbers
        return {"layer": {"A": self.scale * (drawn if self.training else torch.ones(1))}}


def taken(source):
    """What a pass computes with."""
    source.begin_forward()
    weight = source["layer"]["A"]
    assert source["layer"]["A"] is weight
    source.end_forward()
    return weight


@pytest.fixture
def drawing():
    return Drawing().train()


def test_what_is_merged_or_exported_is_not_drawn(drawing):
    source = WeightSource(drawing)
    with torch.no_grad():
        assert taken(source) > 9
        assert source["layer"]["A"].item() == 2.0  # as evaluation has it
        assert drawing.training
        assert taken(source) > 9
        drawing.eval()
        assert taken(source).item() == 2.0


def test_with_gradients_what_is_looked_at_is_not_drawn_either_but_what_is_computed_with_is(drawing):
    source = WeightSource(drawing)
    assert source["layer"]["A"].item() == 2.0
    drawn = source.to_compute("layer")["A"]
    assert drawn > 9 and drawn.requires_grad and drawing.training


def test_checkpointed_blocks_of_two_passes_are_computed_again_with_what_they_were_computed_with(drawing):
    source = WeightSource(drawing)
    x = torch.ones(1, requires_grad=True)
    seen = []

    def block(x):
        seen.append(source.to_compute("layer")["A"].detach().clone())
        return x * source.to_compute("layer")["A"]

    def forward():
        source.begin_forward()
        y = checkpoint(block, x, use_reentrant=False)
        source.end_forward()
        return y

    total = forward() + forward()
    with torch.no_grad():
        forward()
    total.sum().backward()
    assert len(seen) == 5 and all(torch.equal(one, seen[0]) for one in seen) and seen[0] > 9


def test_a_frozen_bank_makes_no_graph(bank, source):
    bank.requires_grad_(False)
    for _ in range(2):
        assert not forward_pass(source)["A"].requires_grad
    assert bank.runs == 1


def test_gradients_wanted_after_a_pass_without(bank, source):
    with torch.no_grad():
        forward_pass(source)
    assert source["layer"]["A"].requires_grad
    assert forward_pass(source)["A"].requires_grad
    with torch.no_grad():
        assert not forward_pass(source)["A"].requires_grad


@pytest.mark.parametrize(
    "change",
    [
        lambda bank: bank.scale.add_(1),
        lambda bank: bank.offset.add_(1),
        lambda bank: bank.load_state_dict({"scale": torch.tensor([5.0]), "offset": torch.tensor(0.0)}),
        lambda bank: bank.load_state_dict({"scale": torch.tensor([5.0]), "offset": torch.tensor(0.0)}, assign=True),
        lambda bank: bank.double(),
        lambda bank: setattr(bank, "scale", nn.Parameter(torch.tensor([9.0]))),
        lambda bank: setattr(bank.scale, "data", torch.tensor([9.0])),
        lambda bank: nn.utils.vector_to_parameters(torch.tensor([4.0]), bank.parameters()),
    ],
)
def test_a_change_is_seen_at_once(bank, source, change):
    with torch.no_grad():
        forward_pass(source)
        change(bank)
        assert torch.equal(source["layer"]["A"], bank()["layer"]["A"])
        assert source["layer"]["A"].dtype == bank.scale.dtype


def test_an_optimizer_step_is_seen_without_a_forward_pass(bank, source):
    optimizer = torch.optim.Adam(bank.parameters(), lr=0.5)
    source["layer"]["A"].sum().backward()
    optimizer.step()
    assert source["layer"]["A"][0, 1].item() == pytest.approx(1 + bank.scale.item())
    assert bank.scale.item() == pytest.approx(1.5)


def test_what_inference_mode_made_is_made_again_for_autograd(bank, source):
    bank.requires_grad_(False)
    with torch.inference_mode():
        forward_pass(source)
    x = torch.ones(3, requires_grad=True)
    nn.functional.linear(x, forward_pass(source)["A"]).sum().backward()
    assert x.grad.tolist() == [8, 12, 16]


def test_a_bank_made_in_inference_mode_works():
    with torch.inference_mode():
        assert forward_pass(WeightSource(Bank()))["A"][0, 0] == 1


def test_autocast_does_not_reach_the_bank(source):
    class Product(Bank):
        def forward(self):
            eye = torch.eye(2)
            return {"layer": {"A": eye @ (eye * self.scale), "B": eye}}

    with torch.autocast("cpu", torch.bfloat16):
        assert (torch.eye(2) @ torch.eye(2)).dtype == torch.bfloat16
        assert WeightSource(Product())["layer"]["A"].dtype == torch.float32


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_copies_follow_their_own_bank(copied):
    both = nn.ModuleList([Bank()])
    both.append(GeneratedLinear(WeightSource(both[0]), "layer", "A"))
    _ = both[1].weight  # holds a graph, which cannot be copied
    twin = copied(both)
    assert twin[1].source.bank is twin[0]
    with torch.no_grad():
        twin[0].scale.fill_(0)
    assert torch.equal(twin[1].weight, torch.ones(2, 3))
    assert both[1].weight[1, 2] == 11


def test_generated_linear_is_the_bias_free_linear_it_stands_for(source):
    linear = GeneratedLinear(source, "layer", "A")
    assert list(linear.parameters()) == list(linear.state_dict()) == []
    assert (linear.in_features, linear.out_features, linear.bias) == (3, 2, None)
    reference = nn.Linear(3, 2, bias=False)
    reference.weight.data.copy_(linear.weight)
    x = torch.randn(4, 5, 3)
    assert torch.equal(linear(x), reference(x))
    assert repr(linear) == "GeneratedLinear(layer='layer', role='A')"
    other = GeneratedLinear(source, "layer", "B")
    assert (other.in_features, other.out_features) == (2, 3)
