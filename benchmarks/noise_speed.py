"""Forward and gradient of all basis probabilities under a device's noise: Pauli transfer matrices against Aer.

RY + CNOT chain, 8 layers, on the best line of the device. Both sides run the same native gates under the same errors
on the N qubits in use. Aer is at its best for exact gradients: density matrix, all parameter-shift circuits of a step
in one job, noise restricted to those qubits. Pauli transfer runs in float32 (Aer in complex128); the difference is
stated.

    python benchmarks/noise_speed.py --qubits 4 8
    python benchmarks/noise_speed.py --qubits 10 11 --alone
"""

from __future__ import annotations

import argparse
import resource
import warnings

import torch
from one_step import one_step

from qpeft.noise.aer_engine import NoisyAerEngine
from qpeft.noise.device import device
from qpeft.noise.pauli_transfer import PauliTransferEngine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qubits", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--device", default="ibm_torino")
    parser.add_argument("--alone", action="store_true", help="leave Aer out: it takes minutes a step from 9 qubits on")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    noise = device(arguments.device)
    print(f"{noise.name}, calibrated {noise.calibrated}; torch threads: {torch.get_num_threads()}")
    print("| qubits | line | Pauli transfer | peak memory | Aer parameter-shift | probabilities, gradients differ |")
    print("| ---: | --- | ---: | ---: | ---: | ---: |")
    rows = []
    for num_qubits in arguments.qubits:  # all of ours first: Aer changes how torch's threads wait
        found = one_step(PauliTransferEngine(noise), num_qubits, torch.float32)
        rows.append((num_qubits, found, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20))
    for num_qubits, (probabilities, gradient, seconds), peak in rows:
        line = " ".join(map(str, noise.line(num_qubits)))
        cells = [str(num_qubits), line, f"{1000 * seconds:.3g} ms", f"{peak:.1f} GiB"]
        if arguments.alone:
            cells += ["", ""]
        else:
            theirs = one_step(NoisyAerEngine(noise), num_qubits, torch.float64)
            apart = [(a - b).abs().max().item() for a, b in zip((probabilities, gradient), theirs[:2], strict=True)]
            cells += [f"{theirs[2]:.3g} s ({theirs[2] / seconds:.0f}x)", f"{apart[0]:.1e}, {apart[1]:.1e}"]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
