import json
import subprocess
import sys

import pytest

import qpeft

PUBLIC = {
    "AerEngine", "Angle", "Circuit", "CircuitBuilder", "PennyLaneEngine", "QPAConfig", "QPAGenerator", "QPAModel",
    "QPASpec", "QiskitSamplerEngine", "SampledEngine", "StatevectorEngine", "Surrogate", "TorchQuantumEngine", "ansatz",
    "export_adapter", "export_lora", "export_merged", "QPAFeedForwardConfig", "QPAPrefixConfig", "QuantumPEFTConfig",
    "get_engine", "gradient_variance", "n_local", "register_ansatz", "register_engine",
}  # fmt: skip
OPTIONAL = {
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "matplotlib",
    "qiskit",
    "qiskit_aer",
    "qiskit_ibm_runtime",
    "pennylane",
    "torchquantum",
    "typer",
}


def fresh(code):
    """What `code` prints in a new process, as JSON."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def imported():
    return fresh(
        "import json, sys, qpeft; names = dir(qpeft); bare = sorted(sys.modules); "
        "qpeft.StatevectorEngine; print(json.dumps([names, bare, sorted(sys.modules)]))"
    )


def test_import_is_light(imported):
    _, bare, _ = imported
    assert OPTIONAL.isdisjoint(bare)
    assert "torch" in bare
    assert not any(name.startswith("qpeft.") for name in bare)


def test_running_a_circuit_stays_light(imported):
    _, _, with_engine = imported
    assert "qpeft.qcircuits.statevector" in with_engine
    assert OPTIONAL.isdisjoint(with_engine)


def test_dir_lists_the_public_names(imported):
    names, _, _ = imported
    assert set(names) >= {*PUBLIC, "__version__"}
    assert set(qpeft.__all__) == PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_is_there(name):
    assert getattr(qpeft, name).__name__ == name


def test_other_names_are_not():
    with pytest.raises(AttributeError, match="module 'qpeft' has no attribute 'Circus'"):
        _ = qpeft.Circus
