import inspect

import pytest
import torch

from qpeft.errors import ConfigError, UnknownNameError
from qpeft.frame_settings import FrameSettings
from qpeft.generators.diagonal import RademacherDiagonal, RealDiagonal
from qpeft.generators.frames import FRAMES, Frame, PaddedFrame, ShannonFrame
from qpeft.qcircuits import ansatz


def frame(size=16, columns=3, count=2, circuit=None, **settings):
    return FrameSettings(**settings).new_frame(size, columns, count, **(circuit or {}))


NODE = {"node_size": 4}


@pytest.mark.parametrize("name", FRAMES)
def test_a_name_makes_its_frame_of_the_sizes_asked_for(name):
    made = frame(parametrization=name, **(NODE if name == "node" else {}))
    assert type(made) is FRAMES[name]
    assert (made.size, made.columns, made.count) == (16, 3, 2)
    assert made().shape == (2, 16, 3)


GIVEN = [
    ("taylor", {"intrinsic_rank": 2, "order": 5, "triangle": "diagonal", "init_scale": 0.25}),
    ("neumann", {"intrinsic_rank": 1, "order": 7, "triangle": "diagonal", "init_scale": 0.125}),
    ("exponential", {"intrinsic_rank": 2, "triangle": "diagonal", "init_scale": 0.0}),
    ("cayley", {"intrinsic_rank": 2, "triangle": "diagonal", "init_scale": 2.0}),
    ("householder", {"intrinsic_rank": 2, "triangle": "diagonal", "init_scale": 0.75, "truncate": "rows"}),
    ("givens", {"intrinsic_rank": 1, "triangle": "diagonal", "init_scale": 0.75, "truncate": "rows"}),
    ("pauli", {"truncate": "rows"}),
    ("node", {"node_size": 4, "sublayers": "fig7"}),
]


@pytest.mark.parametrize(("name", "settings"), GIVEN, ids=[name for name, _ in GIVEN])
def test_every_setting_reaches_the_frame_and_none_leaves_its_own(name, settings):
    made = frame(parametrization=name, **settings)
    assert {setting: getattr(made, setting) for setting in settings} == settings
    needed = NODE if name == "node" else {}
    usual, plain = frame(parametrization=name, **needed), FRAMES[name](16, 3, 2, **needed)
    for setting in settings:
        assert getattr(usual, setting) == getattr(plain, setting)
        assert setting in needed or getattr(usual, setting) != settings[setting]


def test_these_are_all_settings_of_all_frames():
    """But those of the circuit, which the config gives, and the node of `NodeFrame`, which is always Cayley's."""
    settings = {name for _, given in GIVEN for name in given}
    usual = {*inspect.signature(Frame).parameters, "ansatz", "reps", "node"}
    assert {name for kind in FRAMES.values() for name in inspect.signature(kind).parameters} - usual == settings


@pytest.mark.parametrize("name", ["pauli", "node"])
def test_reps_reach_the_circuit(name):
    needed = {"node_size": 2} if name == "node" else {}
    assert frame(parametrization=name, **needed, circuit={"reps": 3}).num_parameters == 2 * ((2 * 3 + 1) * 4 - 2 * 3)


def test_an_ansatz_reaches_circuits_of_every_part():
    made = frame(12, circuit={"ansatz": "ry_cnot", "reps": 2})
    circuits = [module.circuit for module in made.modules() if hasattr(module, "circuit")]
    assert {circuit.num_qubits for circuit in circuits} == {2, 3}
    assert all(circuit == ansatz("ry_cnot", circuit.num_qubits, 2) for circuit in circuits)


@pytest.mark.parametrize("way", [None, "single", "full", "pad"])
@pytest.mark.parametrize(("name", "needed"), [("pauli", {}), ("node", {"node_size": 2})], ids=["pauli", "node"])
def test_other_sizes_are_made_as_asked_and_are_orthonormal(name, needed, way):
    made = frame(24, parametrization=name, **needed, other_sizes=way)
    assert type(made) is (PaddedFrame if way == "pad" else ShannonFrame)
    if way == "pad":
        assert made.orthonormalize
    else:
        assert made.angles.shape == (2, 8 if way == "full" else 1)  # 24 = 16 + 8
        assert not made.has_v2  # which K = 3 <= 8 columns never reach
    assert made.orthogonality_error().max() < 1e-5
    assert type(frame(16, parametrization=name, **needed, other_sizes=way)) is FRAMES[name]  # a power needs none


def test_powers_of_a_nodes_size_need_no_other_way():
    for size, node_size in ((9, 3), (27, 3), (36, 6), (16, 4), (5, 5)):
        assert type(frame(size, parametrization="node", node_size=node_size)) is FRAMES["node"]
    padded = frame(48, parametrization="node", node_size=4, other_sizes="pad")
    assert padded.padded.digits == 3
    split = frame(20, parametrization="node", node_size=4)  # 16 + 4
    assert {module.digits for module in split.modules() if hasattr(module, "digits")} == {1, 2}


@pytest.mark.parametrize(
    ("size", "way", "part"), [(32, None, 32), (32, "pad", 32), (24, "pad", 32), (36, "full", 32), (18, None, 2)]
)
def test_sizes_that_nodes_cannot_make_are_named(size, way, part):
    with pytest.raises(ConfigError, match=f"node_size=4 makes powers of 4 alone, not {part}; use node_size=2"):
        frame(size, parametrization="node", node_size=4, other_sizes=way)


@pytest.mark.parametrize("way", [None, "single", "full"])
def test_rows_of_a_decomposition_are_refused(way):
    with pytest.raises(ConfigError, match=r"keeps columns alone; use truncate='columns', or other_sizes='pad'"):
        frame(24, truncate="rows", other_sizes=way)
    assert frame(16, truncate="rows", other_sizes=way).truncate == "rows"


def test_rows_of_a_padded_circuit_are_those_of_its_matrix():
    torch.manual_seed(0)
    rows, whole = frame(24, truncate="rows", other_sizes="pad"), frame(32, columns=32)
    whole.load_state_dict(rows.padded.state_dict())
    cut = whole()[:, :3, :24].mT
    torch.testing.assert_close(
        rows(), torch.linalg.qr(cut)[0] * torch.linalg.qr(cut)[1].diagonal(0, 1, 2).sign()[:, None]
    )


def test_diagonals_take_their_settings():
    real = FrameSettings(measurement="square").new_diagonal(3, 2)
    assert (type(real), real.measurement, real.size, real.count) == (RealDiagonal, "square", 3, 2)
    signs = FrameSettings(diagonal="rademacher", tau=2.5).new_diagonal(3, 2)
    assert (type(signs), signs.tau) == (RademacherDiagonal, 2.5)
    assert FrameSettings().new_diagonal(3, 2).measurement == RealDiagonal(3, 2).measurement
    assert FrameSettings(diagonal="rademacher").new_diagonal(3, 2).tau == RademacherDiagonal(3, 2).tau


def test_quantization():
    assert FrameSettings(bits=3).quantization() == {"group": 128, "kappa": 0.0}  # arXiv 2503.05431, section 4.2
    assert FrameSettings(bits=3, group_size=5, kappa=0.5).quantization() == {"group": 5, "kappa": 0.5}


def test_whole_numbers_serve_as_real_ones():
    assert frame(parametrization="cayley", init_scale=0)().equal(torch.eye(16, 3).expand(2, 16, 3))


CIRCUITS, TRIANGLES, SERIES = {"pauli", "node"}, set(FRAMES) - {"pauli", "node"}, {"taylor", "neumann"}
TAKE = {
    "intrinsic_rank": (1, TRIANGLES),
    "order": (3, SERIES),
    "triangle": ("strict", TRIANGLES),
    "init_scale": (0.1, TRIANGLES),
    "truncate": ("rows", {"pauli", "householder", "givens"}),
    "node_size": (2, {"node"}),
    "sublayers": ("eq2", {"node"}),
    "other_sizes": ("pad", CIRCUITS),
}


@pytest.mark.parametrize("setting", TAKE)
def test_a_setting_is_for_those_that_take_it(setting):
    value, takers = TAKE[setting]
    for name in FRAMES:
        given = (NODE if name == "node" else {}) | {"parametrization": name, setting: value}
        if name in takers:
            FrameSettings(**given)
        else:
            with pytest.raises(ConfigError, match=f"{setting} is no setting of .*{name}.*: .*leave {setting} out"):
                FrameSettings(**given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parametrization": "givenz"}, "Did you mean 'givens'"),
        ({"parametrization": 3}, "unknown frame '3'"),
        ({"diagonal": "real2"}, "Did you mean 'real'"),
        ({"other_sizes": "none"}, "Available: single, full, pad"),
    ],
)
def test_unknown_names_are_refused(options, message):
    with pytest.raises(UnknownNameError, match=message):
        FrameSettings(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"diagonal": "rademacher", "measurement": "square"}, "measurement is no .* 'rademacher': .* it takes tau"),
        ({"tau": 2.0}, "tau is no setting of diagonal 'real': leave tau out; it takes measurement"),
        ({"parametrization": "taylor", "tau": 2.0}, "tau is no setting of diagonal 'real'"),
        ({"parametrization": "node"}, "needs node_size, the size N' of a node, e.g. 2"),
        ({"parametrization": "node", "node_size": 1}, "node_size is 1; .* at least 2"),
        ({"parametrization": "taylor", "intrinsic_rank": 0}, "intrinsic_rank is 0; .* at least 1"),
        ({"parametrization": "taylor", "intrinsic_rank": True}, "intrinsic_rank is True; .* whole number"),
        ({"parametrization": "taylor", "order": "3"}, "order is '3'; .* whole number"),
        ({"parametrization": "taylor", "order": 0}, "order is 0; .* at least 1"),
        ({"parametrization": "taylor", "init_scale": float("nan")}, "init_scale is nan; it must be a finite number"),
        ({"parametrization": "taylor", "init_scale": "1"}, "init_scale is '1'; it must be a finite number"),
        ({"diagonal": "rademacher", "tau": float("inf")}, "tau is inf; it must be a finite number"),
        ({"parametrization": "taylor", "init_scale": -1.0}, r"init_scale must be finite and at least 0, got -1\.0"),
        ({"parametrization": "cayley", "triangle": "x"}, "triangle must be 'strict' or 'diagonal', got 'x'"),
        ({"truncate": "x"}, "truncate must be 'columns' or 'rows', got 'x'"),
        ({"parametrization": "givens", "truncate": 1}, "truncate must be 'columns' or 'rows', got 1"),
        ({"parametrization": "node", "node_size": 4, "sublayers": "x"}, "sublayers is 'x'; it must be 'eq2' .* 'fig7'"),
        ({"measurement": "x"}, "unknown measurement 'x'.* Available: identity, square"),
        ({"diagonal": "rademacher", "tau": 0.5}, "tau is 0.5; .* at least 1"),
        ({"bits": 0}, "bits is 0; allowed are the whole numbers 1 to 8"),
        ({"bits": 9}, "bits is 9; allowed are the whole numbers 1 to 8"),
        ({"bits": 2.0}, "bits is 2.0; allowed are the whole numbers 1 to 8"),
        ({"bits": 2, "group_size": 0}, "group_size is 0; .* at least 1"),
        ({"bits": 2, "kappa": -1.0}, "kappa is -1.0; it must be finite and at least 0"),
        ({"bits": 2, "kappa": "1"}, "kappa is '1'; it must be a finite number"),
        ({"group_size": 8}, "group_size needs bits, .* set bits to 1 to 8, or leave it out"),
        ({"kappa": 0.5}, "kappa needs bits"),
    ],
    ids=str,
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        FrameSettings(**options)


@pytest.mark.parametrize(("name", "settings"), GIVEN, ids=[name for name, _ in GIVEN])
def test_checking_draws_nothing(name, settings):
    state = torch.get_rng_state()
    FrameSettings(parametrization=name, **settings)
    assert torch.equal(torch.get_rng_state(), state)
