"""Every engine on the same circuit: how far apart the numbers are, and what a gradient costs.

RY + CNOT chain, 8 layers, angles uniform in [-pi, pi], float64. "Difference" is the largest difference of any basis
probability (and of any angle's gradient of one random linear functional) from the exact engine's; sampled engines
differ by their shot noise. Times are medians of forward + gradient, ratios to the exact engine in the same run.

    python benchmarks/engine_agreement.py --qubits 4 8 11
    python benchmarks/engine_agreement.py --engines exact aer@ibm_torino --qubits 4
"""

from __future__ import annotations

import argparse
import warnings

import torch
from one_step import one_step

from qpeft.engines import get_engine

ENGINES = (
    "exact", "exact:20x", "aer", "aer:20x", "pennylane@default.qubit", "pennylane@lightning.qubit",
    "hardware@fake_fez:20x",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qubits", type=int, nargs="+", default=[4, 8, 11])
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), metavar="NAME[@DEVICE][:SHOTS]")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    print(f"torch threads: {torch.get_num_threads()}; probabilities and gradients against 'exact' in float64")
    print("| engine | qubits | differentiation | probabilities differ | gradients differ | forward + gradient |")
    print("| --- | ---: | --- | ---: | ---: | ---: |")
    # All of the reference first: once Aer has run in parallel, torch's threads in this process wait less eagerly.
    references = {num_qubits: one_step(get_engine("exact"), num_qubits) for num_qubits in arguments.qubits}
    for num_qubits, exact in references.items():
        for name in arguments.engines:
            engine = get_engine(name)
            found = exact if name == "exact" else one_step(engine, num_qubits)
            differences = [(a - b).abs().max().item() for a, b in zip(found[:2], exact[:2], strict=True)]
            print(
                f"| `{name}` | {num_qubits} | {engine.describe()['diff_method']} | {differences[0]:.1e} "
                f"| {differences[1]:.1e} | {1000 * found[2]:.3g} ms ({found[2] / exact[2]:.0f}x) |", flush=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()
