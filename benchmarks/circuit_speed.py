"""Forward and gradient of all basis probabilities: this package against PennyLane's simulators, in one run.

RY + CNOT chain, 8 layers, float32 here and float64 there (PennyLane's default), loss = a random linear
functional of the 2**N probabilities (a sparse observable for lightning, whose adjoint takes no probabilities).
Every figure is the median over repetitions; the ratio is PennyLane's time over ours.

    python benchmarks/circuit_speed.py --qubits 4 8 11 16 20
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import torch

from qpeft.qcircuits import StatevectorEngine, ansatz

REPS, SLOWEST = 8, 30.0  # a simulator that took longer than this for one N is left out for larger N


def median_seconds(job: Callable[[], object], at_least: float = 1.0) -> float:
    job()
    seconds: list[float] = []
    while sum(seconds) < at_least or len(seconds) < 3:
        start = time.perf_counter()
        job()
        seconds.append(time.perf_counter() - start)
        if seconds[-1] > SLOWEST / 3:
            break
    return statistics.median(seconds)


def ours(num_qubits: int, method: str) -> Callable[[], object]:
    circuit, engine = ansatz("ry_cnot", num_qubits, REPS), StatevectorEngine(method)  # type: ignore[arg-type]
    angles = torch.randn(circuit.num_parameters, requires_grad=True)
    weights = torch.randn(2**num_qubits)

    def job() -> None:
        angles.grad = None
        (engine.probabilities(circuit, angles) @ weights).backward()

    return job


def pennylane(num_qubits: int, device: str, method: str) -> Callable[[], object]:
    import pennylane as qml
    from scipy.sparse import diags

    angles = torch.randn(REPS * num_qubits, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2**num_qubits, dtype=torch.float64)
    functional = qml.SparseHamiltonian(diags(weights.numpy()).tocsr(), wires=range(num_qubits))

    @qml.qnode(qml.device(device, wires=num_qubits), interface="torch", diff_method=method)
    def circuit(angles: torch.Tensor) -> object:
        for layer in angles.view(REPS, num_qubits):
            for qubit in range(num_qubits):
                qml.RY(layer[qubit], wires=qubit)
            for qubit in range(num_qubits - 1):
                qml.CNOT(wires=[qubit, qubit + 1])
        # lightning's adjoint method differentiates expectation values only: give it the functional itself.
        return qml.expval(functional) if method == "adjoint" else qml.probs(wires=range(num_qubits))

    def job() -> None:
        angles.grad = None
        found = circuit(angles)
        (found if method == "adjoint" else found @ weights).backward()

    return job


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qubits", type=int, nargs="+", default=[4, 8, 11, 16, 20])
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    contenders: dict[str, Callable[[int], Callable[[], object]]] = {
        "adjoint (ms)": lambda n: ours(n, "adjoint"),
        "backprop (ms)": lambda n: ours(n, "backprop"),
        "default.qubit backprop": lambda n: pennylane(n, "default.qubit", "backprop"),
        "lightning.qubit adjoint": lambda n: pennylane(n, "lightning.qubit", "adjoint"),
    }
    print(f"torch threads: {torch.get_num_threads()}; times in ms, ratios to our adjoint in brackets")
    print("| qubits | " + " | ".join(contenders) + " |")
    print("| ---: |" + " ---: |" * len(contenders))
    left_out: set[str] = set()
    for num_qubits in arguments.qubits:
        cells, reference = [], 0.0
        for name, make in contenders.items():
            if name in left_out:
                cells.append("")
                continue
            seconds = median_seconds(make(num_qubits))
            reference = reference or seconds
            cells.append(f"{1000 * seconds:.3g}" + (f" ({seconds / reference:.1f}x)" if cells else ""))
            if seconds > SLOWEST:
                left_out.add(name)
        print(f"| {num_qubits} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
