import copy
import pickle

import pytest
import torch

from qpeft.adapters.frame_bank import FrameBank
from qpeft.adapters.generated import WeightSource
from qpeft.frame_settings import FrameSettings
from qpeft.generators.diagonal import RademacherDiagonal, RealDiagonal
from qpeft.generators.frames import CayleyFrame, PauliFrame

TARGETS = {"one": (8, 4), "two": (4, 8), "three": (16, 8)}  # (out, in)


def bank(rank=2, diagonal=RealDiagonal, frame=PauliFrame):
    torch.manual_seed(0)
    return FrameBank(TARGETS, rank, frame, diagonal)


def measured(size, count):
    return RealDiagonal(size, count, measurement="square")


@torch.no_grad()
def moved(bank, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for parameter in bank.parameters():
        parameter.add_(0.4 * torch.randn(parameter.shape, generator=generator))
    return bank


def updates(weights):
    return {name: factors["lora_B"] @ factors["lora_A"] for name, factors in weights.items()}


def test_layers_and_shapes():
    made = bank()
    assert made.layers == list(TARGETS)
    weights = made()
    assert list(weights) == list(TARGETS)
    for name, (rows, columns) in TARGETS.items():
        assert weights[name]["lora_A"].shape == (2, columns)
        assert weights[name]["lora_B"].shape == (rows, 2)


def test_a_is_v_transposed_and_b_is_u_times_the_diagonal():
    made = moved(bank())
    frames = {size: iter(frame()) for size, frame in made.frames.by_size.items()}
    for number, (name, factors) in enumerate(made().items()):
        U, V = (next(frames[str(size)]) for size in TARGETS[name])
        torch.testing.assert_close(factors["lora_A"], V.T)
        torch.testing.assert_close(factors["lora_B"], U @ made.diagonal.weight[number].diag())
        torch.testing.assert_close(factors["lora_A"] @ factors["lora_A"].T, torch.eye(2), rtol=0, atol=1e-5)


@pytest.mark.parametrize("diagonal", [RealDiagonal, measured, RademacherDiagonal])
def test_the_start_is_exactly_zero(diagonal):
    for name, update in updates(bank(diagonal=diagonal).eval()()).items():
        assert torch.equal(update, torch.zeros(TARGETS[name]))


@pytest.mark.parametrize("diagonal", [measured, RademacherDiagonal])
def test_later_the_start_is_subtracted(diagonal):
    start, now = bank(diagonal=diagonal).eval(), moved(bank(diagonal=diagonal)).eval()
    made = updates(now())
    for number, name in enumerate(TARGETS):
        products = []
        for one in (now, start):
            U, V = (frame[0] for frame in one.frames()[2 * number : 2 * number + 2])
            products.append(U @ one.diagonal()[number].diag() @ V.T)
        torch.testing.assert_close(made[name], products[0] - products[1])


def test_frozen_numbers_are_those_of_the_start():
    made = bank(diagonal=measured)
    assert made.num_frozen == sum(p.numel() for p in made.frames.parameters())
    assert bank().num_frozen == 0


def test_the_subtracted_start_passes_no_gradient():
    made = moved(bank(diagonal=measured, frame=CayleyFrame))
    weights = made()
    loss = sum(update.square().sum() for update in updates(weights).values())
    loss.backward()
    found = [p.grad.clone() for p in made.parameters()]
    made.zero_grad()
    with torch.no_grad():
        # The start as constants: what is subtracted is what the weights leave of U diag V^T.
        frames, diagonal = made.frames(), made.diagonal()
        start = {
            name: frames[2 * i][0] @ diagonal[i].diag() @ frames[2 * i + 1][0].T - updates(weights)[name]
            for i, name in enumerate(TARGETS)
        }
    frames, diagonal = made.frames(), made.diagonal()
    loss = sum(
        (frames[2 * i][0] @ diagonal[i].diag() @ frames[2 * i + 1][0].T - start[name]).square().sum()
        for i, name in enumerate(TARGETS)
    )
    loss.backward()
    torch.testing.assert_close(found, [p.grad for p in made.parameters()], rtol=1e-3, atol=1e-5)


def test_signs_are_likeliest_in_evaluation_and_drawn_in_training():
    made = moved(bank(diagonal=RademacherDiagonal))
    made.eval()
    expected = updates(made())["three"]
    assert torch.equal(updates(made())["three"], expected)
    made.train()
    drawn = updates(made())["three"]
    assert torch.equal(updates(made())["three"], drawn)  # once for each state of the numbers
    made.diagonal.weight.data.fill_(0.0)
    signs = []
    for _ in range(8):
        next(made.frames.parameters()).data.mul_(1.001)
        signs.append(made()["three"]["lora_B"].sign())
    assert any(not torch.equal(one, signs[0]) for one in signs)


def test_a_sample_kept_without_gradients_does_not_serve_evaluation():
    made = moved(bank(diagonal=RademacherDiagonal))
    made.diagonal.weight.data.fill_(0.01)  # signs are drawn as -1 about half the time
    source = WeightSource(made)

    def seen():
        with torch.no_grad():
            source.begin_forward()
            try:
                return source["three"]["lora_B"].clone()
            finally:
                source.end_forward()

    made.eval()
    expected, samples = seen(), []
    for seed in range(8):
        made.diagonal.weight.data.fill_(0.01 * (seed + 1))  # another state, with another draw
        made.train()
        samples.append(seen())
        made.eval()
        assert torch.equal(seen(), expected)
    assert any(not torch.equal(sample, expected) for sample in samples)


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))], ids=["copy", "pickle"]
)
@pytest.mark.parametrize("options", [{}, {"diagonal": "rademacher"}, {"bits": 3, "group_size": 2}], ids=str)
def test_copies_are_independent(again, options):
    settings = FrameSettings(**options)
    made = moved(bank(frame=settings.new_frame, diagonal=settings.new_diagonal)).eval()
    expected = updates(made())
    twin = again(made)
    torch.testing.assert_close(updates(twin()), expected, rtol=0, atol=0)
    moved(twin, seed=2)
    assert not torch.allclose(updates(twin())["one"], expected["one"], atol=1e-3)
    torch.testing.assert_close(updates(made()), expected, rtol=0, atol=0)


def test_half_precision_is_not_followed_and_double_is():
    made = moved(bank(diagonal=measured))
    expected = updates(made())
    made.half()
    assert {t.dtype for t in made.state_dict().values()} == {torch.float32}
    torch.testing.assert_close(updates(made()), expected, rtol=0, atol=0)
    made.double()
    assert {factors["lora_B"].dtype for factors in made().values()} == {torch.float64}
