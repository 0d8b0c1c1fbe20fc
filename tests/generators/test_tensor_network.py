from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrize import register_parametrization
from torch.utils._python_dispatch import TorchDispatchMode

from qpeft.errors import ConfigError, UnknownNameError
from qpeft.generators import tensor_network
from qpeft.generators.diagonal import RademacherDiagonal, RealDiagonal
from qpeft.generators.frames import ExponentialFrame, Frame
from qpeft.generators.packed_state import pack_on_save
from qpeft.generators.quantization import QuantizationAware
from qpeft.generators.tensor_layouts import NETWORKS
from qpeft.generators.tensor_network import TensorNetwork

KINDS = list(NETWORKS)


class DenseNode(Frame):
    """A node of free numbers, as in LoRA's tensor networks."""

    def __init__(self, size, columns, count):
        super().__init__(size, columns, count)
        self.weight = nn.Parameter(torch.randn(count, size, columns))

    def forward(self):
        return self.weight


def network(kind, modes, rank, rows=16, columns=16, frame=ExponentialFrame, trained=True, **options):
    """A network in float64, away from its start unless told otherwise."""
    torch.manual_seed(0)
    made = TensorNetwork(kind, rows, columns, rank, frame, modes, **options).double()
    if trained:
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.copy_(torch.randn(parameter.shape, dtype=torch.float64))
    return made


def nodes(made):
    """The frames of the first update by size, in the order of the network, and its centre."""
    frames = {
        int(size): list(frame().unflatten(0, (-1, made.count))[:, 0]) for size, frame in made.frames.by_size.items()
    }
    return frames, made.diagonal()[0]


def test_cp_is_a_sum_of_products():
    made = network("cp", 4, 3)
    frames, diagonal = nodes(made)
    expected = torch.einsum("ir,jr,kr,lr,r->ijkl", *frames[4], diagonal).reshape(16, 16)
    torch.testing.assert_close(made()[0], expected)


def test_train_is_a_product_of_matrices_around_the_diagonal():
    made = network("tensor_train", (4, 4, 2, 8), 3)
    frames, diagonal = nodes(made)
    first, second, third = frames[4][0], frames[12][0].view(3, 4, 3), frames[6][0].view(2, 3, 3)
    expected = torch.einsum("ia,ajb,b,kcb,lc->ijkl", first, second, diagonal, third, frames[8][0]).reshape(16, 16)
    torch.testing.assert_close(made()[0], expected)


def test_tucker_is_a_core_between_frames():
    made = network("tucker", 3, 2, rows=27, columns=27)
    frames, core = nodes(made)
    expected = torch.einsum("ia,jb,kc,abc->ijk", *frames[9], core.view(2, 2, 2)).reshape(27, 27)
    torch.testing.assert_close(made()[0], expected)


def test_ring_is_figure_8():
    made = network("tensor_ring", (4, 8, 8), 3)
    frames, diagonal = nodes(made)
    first, (second, third) = frames[12][0].view(3, 4, 3), (frame.view(3, 8, 3) for frame in frames[24])
    expected = torch.einsum("lim,mjn,n,nkl->ijk", first, second, diagonal, third).reshape(16, 16)
    torch.testing.assert_close(made()[0], expected)


def test_tree_joins_pairs():
    made = network("hierarchical_tucker", (2, 3, 4, 6, 4), 2, rows=18, columns=32)  # half the modes on either side
    frames, diagonal = nodes(made)
    # Five frames have 4 rows, in this order, with two bonds of rank 2 or a mode of 4 above them.
    joint_left, joint_right, mode_3, joint_pair, mode_5 = frames[4]
    expected = torch.einsum(
        "ia,jb,abr,kc,ld,me,def,cfr,r->ijklm",
        frames[2][0],
        frames[3][0],
        joint_left.view(2, 2, 2),
        mode_3,
        frames[6][0],
        mode_5,
        joint_pair.view(2, 2, 2),
        joint_right.view(2, 2, 2),
        diagonal,
    ).reshape(18, 32)
    torch.testing.assert_close(made()[0], expected)


@pytest.mark.parametrize("kind", ["cp", "tensor_train", "hierarchical_tucker"])
def test_two_modes_are_the_singular_value_decomposition(kind):
    made = network(kind, 2, 3, rows=12, columns=8)
    frames, diagonal = nodes(made)
    torch.testing.assert_close(made()[0], frames[12][0] @ diagonal.diag() @ frames[8][0].T)
    expected = torch.zeros(8, dtype=torch.float64)
    expected[:3] = diagonal.abs().sort(descending=True).values
    torch.testing.assert_close(torch.linalg.svdvals(made()[0]), expected)


@pytest.mark.parametrize("kind", ["cp", "tensor_train", "hierarchical_tucker"])
def test_a_diagonal_between_rows_and_columns_bounds_the_rank(kind):
    update = network(kind, 4, 3, rows=64, columns=16)()[0]
    assert torch.linalg.matrix_rank(update) == 3


HALVES = [  # rows, columns, modes and how many of them are of the rows
    (16, 9, 2, 1),
    (16, 81, 4, 2),
    (64, 64, 6, 3),
    (24, 64, (4, 6, 8, 8), 2),
    (8, 64, 3, 1),
    (64, 8, 3, 2),
    (12, 16, (3, 2, 2, 16), 3),
]


@pytest.mark.parametrize(("rows", "columns", "modes", "of_rows"), HALVES)
@pytest.mark.parametrize("kind", KINDS)
def test_factors_multiply_to_the_updates(kind, rows, columns, modes, of_rows):
    made = network(kind, modes, 2, rows, columns, count=3)
    fewer = min(of_rows, len(made.modes) - of_rows)
    rank = {"tensor_ring": 4, "tucker": 2**fewer}.get(kind, 2)
    B, A = made.factors()
    assert (B.shape, A.shape) == ((3, rows, rank), (3, rank, columns))
    torch.testing.assert_close(B @ A, made())


@pytest.mark.parametrize("kind", ["cp", "tensor_train", "tensor_ring", "hierarchical_tucker"])
def test_modes_of_two_make_networks_of_more_indices_than_there_are_letters(kind):
    made = network(kind, 20, 2, rows=1024, columns=1024)
    B, A = made.factors()
    torch.testing.assert_close(B @ A, made())


def test_factors_of_a_train_are_its_halves():
    made = network("tensor_train", 4, 2)
    frames, diagonal = nodes(made)
    (first, last), (second, third) = frames[4], frames[8]
    B = torch.einsum("ia,ajb,b->ijb", first, second.view(2, 4, 2), diagonal).reshape(16, 2)
    A = torch.einsum("kcb,lc->bkl", third.view(4, 2, 2), last).reshape(2, 16)
    torch.testing.assert_close(made.factors(), (B[None], A[None]))


def test_factors_of_a_ring_are_joined_by_two_bonds():
    made = network("tensor_ring", 4, 2)
    frames, diagonal = nodes(made)
    first, second, third, last = (frame.view(2, 4, 2) for frame in frames[8])
    B = torch.einsum("dia,ajb->ijbd", first, second).reshape(16, 4)
    A = torch.einsum("bkc,c,cld->bdkl", third, diagonal, last).reshape(4, 16)
    torch.testing.assert_close(made.factors(), (B[None], A[None]))


class Sizes(TorchDispatchMode):
    """How many numbers each tensor has that is made inside."""

    def __init__(self):
        super().__init__()
        self.made = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.made.append(out.numel())
        return out


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_factors_never_make_the_matrix(kind, rank):
    made = network(kind, 4, rank, rows=256, columns=256, frame=DenseNode, diagonal=RademacherDiagonal).eval()
    with Sizes() as factors, torch.no_grad():
        made.factors()
    with Sizes() as whole, torch.no_grad():
        made()
    # Factors of R = K**2 at most, twice for the start.
    assert max(factors.made) <= 2 * 256 * rank**2 < 256 * 256 == max(whole.made)


@pytest.mark.parametrize("kind", KINDS)
def test_factors_start_at_zero_and_the_diagonal_can_leave_it(kind):
    made = network(kind, 4, 2, count=3, trained=False)
    B, A = made.factors()
    assert not (B @ A).any()
    assert B.any() != A.any()  # as in LoRA: one of them is zero
    (B @ A - torch.randn(3, 16, 16)).square().sum().backward()
    assert made.diagonal.weight.grad.abs().max() > 1e-3


@pytest.mark.parametrize("modes", [2, 4])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("diagonal", [RademacherDiagonal, partial(RealDiagonal, measurement="square")])
def test_factors_of_signs_and_squares_start_at_exactly_zero(kind, diagonal, modes):
    made = network(kind, modes, 2, count=2, trained=False, diagonal=diagonal).eval()
    B, A = made.factors()
    assert B.any() and A.any()
    assert torch.equal(B @ A, torch.zeros(2, 16, 16, dtype=torch.float64))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter))
    B, A = made.factors()
    rank = network(kind, modes, 2).factors()[0].shape[2]
    assert (B.shape[2], A.shape[1]) == (2 * rank, 2 * rank)
    torch.testing.assert_close(B @ A, made())


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_of_factors(kind):
    made = network(kind, (2, 3, 2, 2), 2, rows=6, columns=4)
    names = [name for name, _ in made.named_parameters()]

    def factors(*values):
        named = {f"made.{name}": value for name, value in zip(names, values, strict=True)}
        return torch.func.functional_call(Factors(made), named, ())

    assert torch.autograd.gradcheck(factors, tuple(made.parameters()))


class Factors(nn.Module):
    """A network whose call gives its factors."""

    def __init__(self, made):
        super().__init__()
        self.made = made

    def forward(self):
        return self.made.factors()


def test_factors_compile_into_one_graph():
    made = Factors(network("tensor_ring", 4, 2, count=2, diagonal=partial(RealDiagonal, measurement="square")))
    compiled = torch.compile(made, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(), made())


def test_modes_of_both_rows_and_columns_have_no_factors():
    made = network("tensor_ring", 3, 2, rows=64, columns=64)
    offered = r"modes=2 or 4 or 6 or modes=\(8, 8, 8, 8\)"
    for refused in (made.factors, made.check_factors):
        with pytest.raises(ConfigError, match=rf"\(16, 16, 16\) do not keep the 64 rows and 64 columns .* {offered}"):
            refused()
    network("tensor_ring", 6, 2, rows=64, columns=64).check_factors()


def test_quantised_networks_compute_with_what_they_save():
    made = network("tucker", 4, 2, pack=partial(pack_on_save, bits=2, group=4))
    state = made.state_dict()
    assert {"frames.by_size.4.entries.codes", "diagonal.weight"} < state.keys()
    loaded = network("tucker", 4, 2, pack=partial(pack_on_save, bits=2, group=4))
    loaded.load_state_dict(state)
    assert not torch.equal(loaded.frames.by_size["4"].entries, made.frames.by_size["4"].entries)
    assert torch.equal(loaded(), made())


def triangle(size, rank):
    return size * rank - rank * (rank + 1) // 2


COUNTS = [(64, 2, 3), (64, 3, 3), (16, 4, 2), (16, 4, 4), (64, 6, 3), (32, 5, 2), (16, 4, 1)]


@pytest.mark.parametrize(("N", "D", "K"), COUNTS)
def test_counts_are_the_printed_formulas(N, D, K):
    n = round(N ** (2 / D))
    count = {kind: network(kind, D, K, rows=N, columns=N).num_parameters for kind in KINDS}
    assert count["tensor_train"] == n * K * (2 + (D - 2) * K) - K * (D * (K + 1) - 2) // 2
    assert count["tucker"] == D * n * K + K**D - D * K * (K + 1) // 2
    if D == 2:
        assert count["cp"] == 2 * N * K - K**2
    assert (count["tensor_ring"] == D * n * K**2 - K * (D * K + 1) / 2) == (
        D == 3
    )  # what is printed is that of three modes


@pytest.mark.parametrize(("N", "D", "K"), COUNTS)
def test_counts_that_are_not_printed(N, D, K):
    n = round(N ** (2 / D))
    assert network("cp", D, K, rows=N, columns=N).num_parameters == D * triangle(n, K) + K
    assert network("tensor_ring", D, K, rows=N, columns=N).num_parameters == D * triangle(K * n, K) + K
    tree = D * n * K + (D - 2) * K**3 - (D - 1) * K * (K + 1) + K
    assert network("hierarchical_tucker", D, K, rows=N, columns=N).num_parameters == tree


@pytest.mark.parametrize(("N", "D", "K"), COUNTS)
def test_free_nodes_have_the_counts_of_lora_adalora_lotr_and_superlora(N, D, K):
    n = round(N ** (2 / D))
    free = {kind: network(kind, D, K, rows=N, columns=N, frame=DenseNode) for kind in ("cp", "tensor_train", "tucker")}
    centres = {kind: made.diagonal.num_parameters for kind, made in free.items()}
    assert free["tensor_train"].num_parameters - centres["tensor_train"] == n * K * (2 + (D - 2) * K)  # LoRA, LoTR
    assert free["tucker"].num_parameters == D * n * K + K**D
    if D == 2:
        assert free["cp"].num_parameters == 2 * N * K + K


@pytest.mark.parametrize("kind", KINDS)
def test_starts_at_zero_and_can_leave_it(kind):
    made = network(kind, 4, 2, count=3, trained=False)
    assert torch.equal(made(), torch.zeros(3, 16, 16, dtype=torch.float64))
    (made() - torch.randn(3, 16, 16)).square().sum().backward()
    assert made.diagonal.weight.grad.abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("diagonal", [RademacherDiagonal, partial(RealDiagonal, measurement="square")])
def test_signs_and_squares_start_at_zero_too(kind, diagonal):
    made = network(kind, 4, 2, count=2, trained=False, diagonal=diagonal).eval()
    assert torch.equal(made(), torch.zeros(2, 16, 16, dtype=torch.float64))
    trained = sum(parameter.numel() for parameter in made.parameters())
    assert made.num_parameters == trained == network(kind, 4, 2, count=2).num_parameters
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter))
    fresh = network(kind, 4, 2, count=2, diagonal=diagonal).eval()
    fresh.load_state_dict(made.state_dict())
    assert torch.equal(fresh(), made())
    plain = network(kind, 4, 2, count=2)
    plain.frames.by_size.load_state_dict(made.frames.by_size.state_dict())
    plain.diagonal.weight.data = made.diagonal()
    start = network(kind, 4, 2, count=2, trained=False, diagonal=RealDiagonal)
    start.diagonal.weight.data.fill_(1.0)
    torch.testing.assert_close(made(), plain() - start())


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_of_all_numbers(kind):
    made = network(kind, 3, 2, rows=8, columns=8)
    names = [name for name, _ in made.named_parameters()]

    def update(*values):
        return torch.func.functional_call(made, dict(zip(names, values, strict=True)), ())

    assert torch.autograd.gradcheck(update, tuple(made.parameters()))


@pytest.mark.parametrize("kind", KINDS)
def test_updates_generated_together_equal_single_ones(kind):
    made = network(kind, 4, 2, count=3)
    for place, update in enumerate(made()):
        single = network(kind, 4, 2)
        for (name, own), together in zip(single.named_parameters(), made.parameters(), strict=True):
            nodes_first = together if name.startswith("diagonal") else together.unflatten(0, (-1, 3))[:, place]
            own.data = nodes_first[place : place + 1] if name.startswith("diagonal") else nodes_first
        torch.testing.assert_close(single()[0], update)


@pytest.mark.parametrize("kind", KINDS)
def test_rank_one_networks_agree_on_their_norm(kind):
    made = network(kind, 4, 1, rows=81, columns=16)
    torch.testing.assert_close(torch.linalg.matrix_norm(made()[0]), made.diagonal()[0].abs().sum())


def test_equal_frames_share_a_module_and_the_order_is_cached():
    made = network("tensor_ring", 4, 2, count=5)
    assert [frame.count for frame in made.frames.by_size.values()] == [20]
    before = tensor_network._steps.cache_info()
    network("tensor_ring", 4, 2, count=5)()
    after = tensor_network._steps.cache_info()
    assert (after.hits - before.hits, after.misses - before.misses) == (3, 0)  # of the whole and of its two halves


def test_the_order_avoids_the_large_way():
    """A train of 8 modes of 4 at rank 2 costs no more than a few products of its halves."""
    steps = network("tensor_train", 8, 2, rows=256, columns=256)._whole.steps
    assert max(len(places) for places, _ in steps) == 2
    widest = max(len(step.split("->")[1]) for _, step in steps[:-1])
    assert widest <= 7  # the batch, at most five modes and a bond: never the whole tensor before the last step


def test_compiles_into_one_graph():
    made = network("hierarchical_tucker", 4, 2, count=2, diagonal=partial(RealDiagonal, measurement="square"))
    compiled = torch.compile(made, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(), made())


def test_quantised_frames_start_at_zero_too():
    def quantised(size, columns, count):
        return register_parametrization(DenseNode(size, columns, count), "weight", QuantizationAware(2, group=8))

    made = network("tensor_train", 4, 2, frame=quantised, diagonal=RademacherDiagonal, trained=False).eval()
    assert not made().any()
    with torch.no_grad():
        made.diagonal.weight[0, 0] = -1.0
    made().sum().backward()
    assert made().any()
    assert all(frame.parametrizations.weight.original.grad.any() for frame in made.frames.by_size.values())


def test_bad_input_is_named():
    with pytest.raises(UnknownNameError, match=r"unknown tensor network 'tensor_trane'. Did you mean 'tensor_train'"):
        network("tensor_trane", 2, 2)
    with pytest.raises(
        ConfigError, match=r"rank 5 is above the smallest mode of cp, 4 of modes \(4, 4, 4, 4\).*1 to 4"
    ):
        network("cp", 4, 5)
    with pytest.raises(ConfigError, match="rank is 0"):
        network("cp", 2, 0)
    with pytest.raises(ConfigError, match="does not fold into 3 modes"):
        network("cp", 3, 2)
