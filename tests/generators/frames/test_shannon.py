import copy
from functools import partial

import pytest
import scipy.linalg
import scipy.stats
import torch
from torch import nn
from torch.autograd import gradcheck

from qpeft.errors import ConfigError
from qpeft.generators.frames.acting import ActingFrame
from qpeft.generators.frames.cayley import CayleyFrame
from qpeft.generators.frames.node import NodeFrame
from qpeft.generators.frames.pauli import PauliFrame
from qpeft.generators.frames.shannon import ShannonFrame

angle_kinds = pytest.mark.parametrize("angles", ["full", "single"])


def middle(angles, larger):
    """M, block by block."""
    n2 = len(angles)
    eye = torch.eye(larger - n2, dtype=angles.dtype)
    cosine, sine = torch.diag(angles.cos()), torch.diag(angles.sin())
    left, right = cosine.new_zeros(n2, larger - n2), cosine.new_zeros(larger - n2, n2)
    return torch.cat(
        [torch.cat([cosine, -sine, left], 1), torch.cat([right, right, eye], 1), torch.cat([sine, cosine, left], 1)]
    )


def dense(frame):
    """The whole matrices, (count, N, N)."""
    if frame is None:
        return None
    if not isinstance(frame, ShannonFrame):
        eye = torch.eye(frame.size, dtype=torch.float64).expand(frame.count, -1, -1)
        return frame.act_on(eye).detach()
    u1, u2, v1, v2 = (dense(part) for part in (frame.u1, frame.u2, frame.v1, frame.v2))
    one = torch.ones(1, 1, dtype=torch.float64)
    out = []
    for index in range(frame.count):
        angles = frame.angles.detach()[index].expand(frame.smaller)
        left = torch.block_diag(u1[index], one if u2 is None else u2[index])
        right = torch.block_diag(one if v1 is None else v1[index], v2[index])
        out.append(left @ middle(angles, frame.larger) @ right)
    return torch.stack(out)


@angle_kinds
@pytest.mark.parametrize(
    ("size", "columns"), [(3, 1), (3, 2), (5, 4), (6, 2), (7, 3), (12, 3), (12, 7), (28, 28), (33, 2)]
)
def test_equals_the_dense_product(size, columns, angles):
    frame = ShannonFrame(size, columns, 2, angles=angles).double()
    whole = dense(frame)
    assert (whole.mT @ whole - torch.eye(size)).abs().max() < 1e-12
    torch.testing.assert_close(frame().detach(), whole[:, :, :columns], rtol=0, atol=1e-12)
    block = torch.randn(2, size, 4, dtype=torch.float64)
    torch.testing.assert_close(frame.act_on(block).detach(), whole @ block, rtol=0, atol=1e-12)


class Given(ActingFrame):
    """A node that is a given matrix."""

    def __init__(self, matrix):
        super().__init__(len(matrix), len(matrix))
        self.matrix = nn.Parameter(torch.as_tensor(matrix.copy())[None])

    def act_on(self, block):
        return self.matrix @ block


@pytest.mark.parametrize(("larger", "smaller"), [(8, 4), (16, 4), (4, 2), (8, 2)])
def test_every_orthogonal_matrix_is_one(larger, smaller):
    """The factors of SciPy's decomposition, put in, give the matrix."""
    size = larger + smaller
    matrix = scipy.stats.ortho_group.rvs(size, random_state=size)
    (u1, u2), theta, (v1, v2) = scipy.linalg.cossin(matrix, p=larger, q=smaller, separate=True)
    frame = ShannonFrame(size, size).double()
    # SciPy's middle matrix is ours up to a permutation with signs of V2's rows.
    scipys = scipy.linalg.cossin(matrix, p=larger, q=smaller)[1]
    between = middle(torch.tensor(theta), larger).numpy().T @ scipys
    assert abs(between[:smaller, smaller:]).max() < 1e-12
    frame.u1, frame.u2 = Given(u1), Given(u2)
    frame.v1, frame.v2 = Given(between[:smaller, :smaller] @ v1), Given(between[smaller:, smaller:] @ v2)
    with torch.no_grad():
        frame.angles.copy_(torch.tensor(theta)[None])
    torch.testing.assert_close(frame()[0].detach(), torch.tensor(matrix), rtol=0, atol=1e-12)


class TestOrthonormality:
    @angle_kinds
    @pytest.mark.parametrize("size", [12, 28, 257, 768, 3072, 14336])
    def test_sizes(self, size, angles):
        frame = ShannonFrame(size, 3, angles=angles).double()
        assert frame().shape == (1, size, 3)
        assert frame.orthogonality_error() < 1e-12

    def test_nodes_of_more_than_bits(self):
        def node(size, columns, count):
            return NodeFrame(size, columns, count, node_size=4) if size > 8 else PauliFrame(size, columns, count)

        frame = ShannonFrame(20, 3, 2, node=node).double()
        torch.testing.assert_close(frame().detach(), dense(frame)[:, :, :3], rtol=0, atol=1e-12)
        assert frame.orthogonality_error().max() < 1e-12

    def test_no_tensor_is_as_large_as_the_matrix(self):
        sizes = []

        class Watch(torch.utils._python_dispatch.TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                out = function(*args, **(kwargs or {}))
                sizes.append(out.numel() if isinstance(out, torch.Tensor) else 0)
                return out

        frame = ShannonFrame(768, 2)
        with Watch():
            frame()
        assert 768 * 2 <= max(sizes) <= 8 * 768 * 2


class TestCounts:
    @pytest.mark.parametrize(
        ("size", "count"), [(12, 26), (28, 84), (768, 350), (3072, 1142), (14336, 10574), (257, 45)]
    )
    def test_literal(self, size, count):
        assert ShannonFrame(size, 3).num_parameters == count

    @angle_kinds
    def test_deberta(self, angles):
        """The 72 adapted matrices of DeBERTa-base with K = 3."""
        a, b = (ShannonFrame(size, 3, angles=angles).num_parameters for size in (768, 3072))
        assert 12 * (4 * (2 * a + 3) + 2 * (a + b + 3)) == {"full": 69624, "single": 14472}[angles]

    def test_layers(self):
        two = partial(PauliFrame, reps=2)  # 5 q - 4 angles
        assert ShannonFrame(12, 3, 4, node=two).num_parameters == 4 * (2 * 11 + 2 * 6 + 4)


class TestTraining:
    @angle_kinds
    @pytest.mark.parametrize(("size", "columns"), [(5, 2), (6, 1), (7, 3)])
    def test_gradcheck(self, size, columns, angles):
        frame = ShannonFrame(size, columns, 2, angles=angles).double()
        names, values = zip(*frame.named_parameters(), strict=True)
        assert gradcheck(lambda *new: torch.func.functional_call(frame, dict(zip(names, new, strict=True)), ()), values)

    @pytest.mark.parametrize(("columns", "used"), [(4, False), (5, True)])
    def test_v2_matters_beyond_n2_columns(self, columns, used):
        frame = ShannonFrame(12, columns)
        (frame() * torch.randn(12, columns)).sum().backward()
        gradients = {name: bool(p.grad.any()) for name, p in frame.named_parameters()}
        assert gradients.pop("v2.angles") == used
        assert all(gradients.values())

    @angle_kinds
    @pytest.mark.parametrize(("size", "columns"), [(3, 1), (17, 1), (257, 1), (12, 3), (28, 4), (28, 12), (7, 3)])
    def test_without_what_only_whole_ones_need(self, size, columns, angles):
        whole = ShannonFrame(size, columns, 2, angles=angles).double()
        frame = ShannonFrame(size, columns, 2, angles=angles, whole=False).double()
        frame.load_state_dict({name: whole.state_dict()[name] for name in frame.state_dict()})
        torch.testing.assert_close(frame(), whole())
        (frame() * torch.randn(size, columns)).sum().backward()
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in frame.parameters())
        if columns <= frame.smaller:
            with pytest.raises(ConfigError, match=r"whole=True"):
                frame.act_on(frame())

    def test_state_and_copies(self):
        frame, other = (ShannonFrame(13, 3, 2) for _ in range(2))
        assert not torch.equal(frame(), other())
        other.load_state_dict(frame.state_dict())
        assert torch.equal(frame(), other()) and torch.equal(frame(), copy.deepcopy(frame)())


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        (16, {}, "N = 16 is a power of two and needs no decomposition"),
        (12, {"angles": "none"}, "angles is 'none'; it must be 'full' .* or 'single'"),
        (12, {"node": CayleyFrame}, "CayleyFrame cannot act on a block"),
        (12, {"node": partial(PauliFrame, truncate="rows")}, "truncate is 'rows', .* columns alone; use .*'pad'"),
    ],
)
def test_refused(size, options, message):
    with pytest.raises(ConfigError, match=message):
        ShannonFrame(size, 2, **options)
