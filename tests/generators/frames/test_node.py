import copy
from functools import partial, reduce

import pytest
import torch
from torch.autograd import gradcheck

from qpeft.errors import ConfigError
from qpeft.generators.frames.cayley import CayleyFrame
from qpeft.generators.frames.node import NodeFrame
from qpeft.generators.frames.pauli import PauliFrame


def dense(frame):
    """The frames' whole matrices as products of Kronecker products."""
    n, m = frame.node_size, frame.digits
    nodes = frame.nodes().detach().unflatten(0, (frame.count, -1))
    eye = torch.eye(n, dtype=nodes.dtype)
    signs = torch.diag(torch.tensor([(-1.0) ** (a * b) for a in range(n) for b in range(n)], dtype=nodes.dtype))

    def on(matrix, first, width=1):
        return reduce(torch.kron, [*[eye] * first, matrix, *[eye] * (m - first - width)], torch.ones(1, 1).to(eye))

    out = []
    for row in nodes:
        node, whole = iter(row), torch.eye(frame.size, dtype=nodes.dtype)
        for digit in range(m):
            whole = on(next(node), digit) @ whole
        for sublayer in range(frame.reps * {"eq2": 2, "fig7": 1}[frame.sublayers]):
            firsts = range(sublayer % 2, m - 1, 2)
            for first in firsts:
                whole = on(signs, first, 2) @ whole
            for first in firsts:
                whole = on(next(node), first) @ whole
                whole = on(next(node), first + 1) @ whole
        assert next(node, None) is None
        out.append(whole)
    return torch.stack(out)


CASES = [
    (27, 3, 1, "eq2"), (27, 3, 2, "fig7"), (16, 2, 1, "eq2"), (16, 4, 2, "eq2"), (81, 3, 3, "fig7"), (5, 5, 1, "eq2"),
    (36, 6, 0, "eq2"),
]  # fmt: skip
cases = pytest.mark.parametrize(("size", "node_size", "reps", "sublayers"), CASES)


@cases
def test_equals_the_dense_product(size, node_size, reps, sublayers):
    frame = NodeFrame(size, 3, 2, node_size=node_size, reps=reps, sublayers=sublayers).double()
    whole = dense(frame)
    torch.testing.assert_close(frame().detach(), whole[:, :, :3], rtol=0, atol=1e-12)
    block = torch.randn(2, size, 4, dtype=torch.float64)
    torch.testing.assert_close(frame.act_on(block).detach(), whole @ block, rtol=0, atol=1e-12)
    assert frame.orthogonality_error().max() < 1e-12


@pytest.mark.parametrize(("q", "reps"), [(2, 1), (3, 2), (4, 1), (5, 2)])
def test_bits_are_the_pauli_frame(q, reps):
    pauli = PauliFrame(2**q, 3, count=2, reps=reps).double()
    frame = NodeFrame(2**q, 3, 2, node_size=2, reps=reps).double()
    (lower,) = frame.nodes.parameters()
    with torch.no_grad():  # Cayley's rotation by 2 atan(b) is RY of twice that angle
        pauli.angles.copy_(4 * lower.view(2, -1).atan())
    torch.testing.assert_close(frame(), pauli(), rtol=0, atol=1e-12)


class TestCounts:
    @pytest.mark.parametrize(("sublayers", "count"), [("eq2", 252), ("fig7", 180)])
    def test_published_example(self, sublayers, count):
        assert NodeFrame(729, 1, node_size=9, reps=1, sublayers=sublayers).num_parameters == count

    @pytest.mark.parametrize("reps", [1, 2, 3])
    @pytest.mark.parametrize("digits", [1, 2, 3, 4, 5])
    def test_nodes(self, digits, reps):
        frames = {name: NodeFrame(3**digits, 1, node_size=3, reps=reps, sublayers=name) for name in ("eq2", "fig7")}
        assert frames["eq2"].num_nodes == digits + 2 * reps * (digits - 1)
        extra = digits % 2 == 0 and reps % 2
        assert frames["fig7"].num_nodes == digits + reps * (digits - 1) + extra
        assert frames["eq2"].num_parameters == 3 * frames["eq2"].num_nodes

    def test_masked_nodes(self):
        node = partial(CayleyFrame, intrinsic_rank=2)
        assert NodeFrame(729, 1, 2, node_size=9, node=node).num_parameters == 2 * 7 * (9 * 2 - 3)


def test_training():
    frame = NodeFrame(27, 2, 2, node_size=3).double()
    names, values = zip(*frame.named_parameters(), strict=True)
    assert gradcheck(lambda *new: torch.func.functional_call(frame, dict(zip(names, new, strict=True)), ()), values)


def test_state_and_copies():
    frame, other = (NodeFrame(27, 2, 2, node_size=3) for _ in range(2))
    with torch.no_grad():
        for parameter in frame.parameters():
            parameter.add_(torch.randn_like(parameter))
    assert not torch.equal(frame(), other())
    other.load_state_dict(frame.state_dict())
    assert torch.equal(frame(), other()) and torch.equal(frame(), copy.deepcopy(frame)())
    assert "signs" not in frame.state_dict()


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        (28, {"node_size": 3}, "N = 28 is no power of N' = 3; the nearest are 27 and 81"),
        (8, {"node_size": 1}, "N' >= 2, got 1"),
        (9, {"node_size": 3, "reps": -1}, "reps must be 0 or more, got -1"),
        (9, {"node_size": 3, "sublayers": "eq3"}, "sublayers is 'eq3'; it must be 'eq2' .* or 'fig7'"),
        (9, {"node_size": 3, "node": lambda n, k, c: CayleyFrame(n, 2, c)}, "all 3 columns, got 2"),
    ],
)
def test_refused(size, options, message):
    with pytest.raises(ConfigError, match=message):
        NodeFrame(size, 2, **options)
