import copy
import pickle

import pytest
import torch

from qpeft.generators.diagonal import RademacherDiagonal, RealDiagonal
from qpeft.generators.one_draw import OneDraw


@pytest.fixture
def node():
    return RademacherDiagonal(size=64, count=2).train()


def test_one_state_has_one_draw_and_others_have_others(node):
    draw, state = OneDraw(node), [torch.arange(3.0)]
    first = draw(state)
    before = torch.get_rng_state()
    assert torch.equal(draw(state), first)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(draw(state), first)
    assert not torch.equal(draw([torch.arange(3.0) + 1e-3]), first)
    with torch.no_grad():
        node.weight[0, 0] += 1e-3
    assert not torch.equal(draw(state), first)


def test_signs_are_drawn_with_the_nodes_probability(node):
    """128 signs in each of 200 states, +1 with probability sigmoid(2): six standard deviations allowed."""
    draw = OneDraw(node)
    mean = torch.stack([draw([torch.tensor([float(number)])]).detach() for number in range(200)]).mean()
    assert abs(float(mean) - (2 * torch.sigmoid(torch.tensor(2.0)) - 1)) < 6 * 0.65 / (200 * 128) ** 0.5


def test_the_gradient_is_reinmaxs_for_that_draw(node):
    drawn = OneDraw(node)([])
    drawn.sum().backward()
    assert node.weight.grad.abs().min() > 0


def test_in_evaluation_and_for_real_numbers_it_is_the_node(node):
    assert torch.equal(OneDraw(node.eval())([]), node())
    real = RealDiagonal(size=3)
    assert torch.equal(OneDraw(real)([]), real())


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda draw: pickle.loads(pickle.dumps(draw))], ids=["copy", "pickle"])
def test_copies_have_their_own_node(node, twin):
    draw = OneDraw(node)
    other = twin(draw)
    assert torch.equal(other([]), draw([]))
    with torch.no_grad():
        other.node.weight.fill_(-9.0)
    assert torch.equal(other([]), torch.full((2, 64), -1.0)) and (draw([]) > 0).any()


def test_compiled_it_is_one_operator_with_the_same_draw_and_gradient(node):
    draw, state = OneDraw(node), [torch.arange(3.0)]
    found = []
    for call in (draw, torch.compile(draw, backend="aot_eager", fullgraph=True)):
        node.weight.grad = None
        drawn = call(state)
        (drawn * torch.arange(64.0)).sum().backward()
        found.append((drawn.detach(), node.weight.grad))
    torch.testing.assert_close(found[1], found[0])
