import pytest

from qpeft.adapters.quantum_peft import QuantumPEFTConfig
from qpeft.generators.frames.counts import CONVENTIONS
from qpeft.generators.tensor_layouts import NETWORKS
from qpeft.training.adapter_options import CountConfig
from qpeft.training.counting import count
from qpeft.training.frame_counts import FrameCounts
from tests.settings import adapter_settings


@pytest.fixture
def gpt2_folder(tmp_path):
    """Two blocks of width 9: c_attn is 27 x 9, both powers of 3."""
    from transformers import GPT2Config

    GPT2Config(n_layer=2, n_embd=9, n_head=3, vocab_size=40, n_positions=8).save_pretrained(tmp_path)
    return str(tmp_path)


def counted(folder, method="quantum-peft", **settings):
    return count(folder, CountConfig(**adapter_settings(method=method, **settings)))


def frames(*shapes, **settings):
    return FrameCounts(QuantumPEFTConfig(**{"r": 3, **settings}), shapes)


def trained_name(found):
    (trains,) = (row for row in found.frames.conventions if row.trains)
    assert trains.numbers == found.trained
    return trains.name


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "eq2-single"),
        ({"reps": 3, "other_sizes": "full"}, "eq2-full"),
        ({"other_sizes": "pad", "ansatz": "simplified_two_design"}, "eq2-pad"),
        ({"diagonal": "rademacher", "reps": 2}, "eq2-single"),
        ({"parametrization": "taylor", "intrinsic_rank": 1}, "triangle-strict"),
        ({"parametrization": "cayley", "triangle": "diagonal"}, "triangle-diagonal"),
        ({"parametrization": "givens", "bits": 2, "group_size": 8}, "triangle-strict"),
        ({"parametrization": "node", "node_size": 2, "other_sizes": "full"}, "node-eq2"),
        ({"parametrization": "node", "node_size": 2, "other_sizes": "pad", "sublayers": "fig7"}, "node-fig7"),
    ],
)
def test_the_marked_convention_counts_what_trains(gpt2_folder, settings, name):
    assert trained_name(counted(gpt2_folder, rank=3, targets=["c_attn,c_fc,lm_head"], **settings)) == name


@pytest.mark.parametrize("sublayers", ["eq2", "fig7"])
def test_nodes_of_three(gpt2_folder, sublayers):
    settings = {"parametrization": "node", "node_size": 3, "sublayers": sublayers, "reps": 2}
    assert trained_name(counted(gpt2_folder, rank=3, targets=["c_attn"], **settings)) == f"node-{sublayers}"


def test_a_circuit_that_the_paper_does_not_have(gpt2_folder):
    found = counted(gpt2_folder, targets=["c_attn"], ansatz="ry_cnot")
    assert found.frames.name == "" and not list(found.frames.working())
    assert [row.name for row in found.frames.conventions] == list(CONVENTIONS)
    assert not any(row.trains for row in found.frames.conventions)


def test_the_others_are_what_peft_trains(gpt2_folder):
    rows = {row.name: row.numbers for row in counted(gpt2_folder, rank=2, targets=["c_attn,c_fc"]).frames.others}
    assert list(rows) == ["LoRA r=2", "LoRA r=1", "AdaLoRA r=2", "AdaLoRA r=1"]
    for rank in (1, 2):
        lora = counted(gpt2_folder, "lora", rank=rank, targets=["c_attn,c_fc"])
        assert lora.frames is None
        assert rows[f"LoRA r={rank}"] == lora.trained == rank * lora.lora_rank_1
        assert rows[f"AdaLoRA r={rank}"] == lora.trained + rank * len(lora.targets)


def test_rank_one_is_listed_once():
    assert [row.name for row in frames((8, 4), r=1).others] == ["LoRA r=1", "AdaLoRA r=1"]


@pytest.mark.parametrize(
    ("settings", "lines"),
    [
        (
            {"reps": 2},
            ["N = 8: 5 * 3 - 4 = 11", "N = 12: 2 * 11 + 2 * 6 + 1 - 11 = 24",
             "2 layer(s) 12 x 8: U 24 + V 11 + diagonal 3 = 38", "1 layer(s) 8 x 8: U 11 + V 11 + diagonal 3 = 25"],
        ),
        (
            {"other_sizes": "full"},
            ["N = 8: 3 * 3 - 2 = 7", "N = 12: 2 * 7 + 2 * 4 + 4 - 7 = 19",
             "2 layer(s) 12 x 8: U 19 + V 7 + diagonal 3 = 29", "1 layer(s) 8 x 8: U 7 + V 7 + diagonal 3 = 17"],
        ),
        (
            {"other_sizes": "pad"},
            ["N = 8: 3 * 3 - 2 = 7", "N = 12: 3 * 4 - 2 = 10",
             "2 layer(s) 12 x 8: U 10 + V 7 + diagonal 3 = 20", "1 layer(s) 8 x 8: U 7 + V 7 + diagonal 3 = 17"],
        ),
        (
            {"parametrization": "taylor", "intrinsic_rank": 2},
            ["N = 8: 8 * 2 - 3 = 13", "N = 12: 12 * 2 - 3 = 21",
             "2 layer(s) 12 x 8: U 21 + V 13 + diagonal 3 = 37", "1 layer(s) 8 x 8: U 13 + V 13 + diagonal 3 = 29"],
        ),
    ],
)  # fmt: skip
def test_the_numbers_put_in(settings, lines):
    assert list(frames((12, 8), (12, 8), (8, 8), **settings).working()) == lines


def test_enough_columns_leave_nothing_idle():
    line = "N = 12: 2 * 7 + 2 * 4 + 1 = 23"
    assert list(frames((12, 8), r=5).working())[1] == line


def test_the_numbers_put_in_for_nodes():
    """Seven nodes of 9 * 8 / 2 numbers on 729 = 9^3, one on 9; Fig. 7 counts five."""
    nodes = {"parametrization": "node", "node_size": 9}
    assert list(frames((729, 9), **nodes).working())[:2] == ["N = 9: 1 * 36 = 36", "N = 729: 7 * 36 = 252"]
    assert list(frames((729, 9), sublayers="fig7", **nodes).working())[1] == "N = 729: 5 * 36 = 180"


@pytest.mark.parametrize(
    ("settings", "rows"),
    [
        # Two layers of 64 x 64 and a 16 x 16; modes of 8 and of 4, K = 3.
        (
            {"network": "tensor_train", "modes": 4},
            {"triangle-strict": 2 * (2 * 18 + 2 * 66 + 3) + 2 * 6 + 2 * 30 + 3,
             "printed": 2 * (8 * 3 * 8 - 3 * 7) + 4 * 3 * 8 - 3 * 7},
        ),
        (
            {"network": "tucker", "modes": 4},
            {"triangle-strict": 2 * (4 * 18 + 81) + 4 * 6 + 81, "printed": 2 * (4 * 8 * 3 + 81 - 24) + 48 + 81 - 24},
        ),
        (
            {"network": "tensor_ring", "modes": 4},  # printed: K (D K + 1) / 2 = 19.5 less, for each layer
            {"triangle-strict": 2 * (4 * 66 + 3) + 4 * 30 + 3,
             "printed": 2 * (4 * 8 * 9) + 4 * 4 * 9 - 3 * 19.5},
        ),
        ({"network": "cp"}, {"triangle-strict": 2 * (2 * 186 + 3) + 2 * 42 + 3}),
        ({"network": "hierarchical_tucker", "modes": 4, "triangle": "diagonal"}, {
            "triangle-diagonal": 2 * (4 * 21 + 2 * 24 + 3) + 4 * 9 + 2 * 24 + 3,
        }),
        ({"network": "cp", "modes": 4, "parametrization": "pauli"}, {"eq2-single": 2 * (4 * 7 + 3) + 4 * 4 + 3}),
        ({"network": "cp", "modes": 4, "parametrization": "pauli", "ansatz": "ry_cnot"}, {}),
    ],
)  # fmt: skip
def test_of_a_network_what_trains_and_the_printed_formula(settings, rows):
    found = frames((64, 64), (16, 16), (64, 64), **{"parametrization": "cayley", **settings})
    assert {row.name: row.numbers for row in found.conventions} == rows
    assert [row.name for row in found.conventions if row.trains] == list(rows)[:1]
    assert {row.published for row in found.conventions} <= {"none"}


def test_modes_that_differ_have_no_printed_formula():
    found = frames((16, 64), network="tensor_train", modes=4, parametrization="cayley")
    assert [row.name for row in found.conventions] == ["triangle-strict"]


def test_the_numbers_put_in_for_a_network():
    found = frames((16, 64), (16, 64), network="tensor_train", modes=4, parametrization="cayley")
    assert list(found.working()) == [
        "N = 4: 4 * 3 - 6 = 6", "N = 8: 8 * 3 - 6 = 18", "N = 12: 12 * 3 - 6 = 30", "N = 24: 24 * 3 - 6 = 66",
        "2 layer(s) 16 x 64: modes 4 x 4 x 8 x 8, frames 6 + 30 + 66 + 18 + centre 3 = 123",
    ]  # fmt: skip


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("settings", [{}, {"parametrization": "taylor", "intrinsic_rank": 1}])
def test_what_a_network_trains_is_counted(gpt2_folder, network, settings):
    found = counted(gpt2_folder, targets=["c_attn", "attn.c_proj"], rank=2, network=network, modes=2, **settings)
    (row,) = (row for row in found.frames.conventions if row.trains)
    assert row.numbers == found.trained
