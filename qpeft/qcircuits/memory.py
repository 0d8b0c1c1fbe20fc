"""Refuses a simulation that cannot fit, before it starts."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from qpeft.errors import EngineError

# What a forward and adjoint backward pass holds at its peak: the final state and its cotangent, three buffers to walk
# them back, and the probabilities that the caller keeps. (glibc keeps some freed tensors of up to 32 MiB beside these.)
STATES_HELD = 6
PAIR_STATES = 3  # more while a pair gate is undone: both states with its qubits in front, and a product
TABLES_HELD = 3  # the gate matrices, their gradients, and one product of the two on the way to the angles
INDEX_BYTES = 2 * 8  # a permutation and its inverse, int64
WORTH_CHECKING = 2**26  # bytes; below this no machine that runs torch is short


@dataclass(frozen=True)
class Footprint:
    """What a circuit's program holds besides states.

    Attributes:
        moves: Number of different index permutations, each of 2**N indices and their inverse.
        turns: Number of different vectors of phases, each of 2**N numbers.
        table: Numbers in the gate matrices of one circuit: the sum of d * d over all blocks and pair gates.
        pairs: Whether there are pair gates.
        results: Number of states that "backprop" keeps.
    """

    moves: int = 0
    turns: int = 0
    table: int = 0
    pairs: bool = False
    results: int = 0


def needed_bytes(
    num_qubits: int, states: int, dtype: torch.dtype, footprint: Footprint,
    keep_all: bool = False, circuits: int | None = None,
) -> int:  # fmt: skip
    """Bytes at the peak of a forward and backward pass: states + compiled indices and phases + gate matrices."""
    held = STATES_HELD + PAIR_STATES * footprint.pairs + footprint.results * keep_all
    amplitudes = held * states * dtype.itemsize << num_qubits
    compiled = (footprint.moves * INDEX_BYTES + footprint.turns * dtype.itemsize) << num_qubits
    return amplitudes + compiled + TABLES_HELD * (circuits or states) * footprint.table * dtype.itemsize


def available_bytes(device: torch.device) -> int:
    """Bytes free on the device now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(psutil.virtual_memory().available)


def require_memory(
    num_qubits: int, states: int, dtype: torch.dtype, device: torch.device,
    footprint: Footprint | None = None, keep_all: bool = False, circuits: int | None = None,
) -> None:  # fmt: skip
    """Raises `EngineError` if a simulation needs more memory than is free, saying how much it needs.

    Args:
        num_qubits: N.
        states: Number of states.
        dtype: dtype of the states.
        device: Where they live.
        footprint: What the program holds; without it only the states are counted.
        keep_all: Whether autograd keeps the result of every step, as under "backprop".
        circuits: How many circuits, each with its own gate matrices, the states belong to; one each if None.
    """
    require_bytes(
        needed_bytes(num_qubits, states, dtype, footprint or Footprint(), keep_all, circuits), device,
        f"{num_qubits} qubits ({states} state(s) of 2**{num_qubits} numbers and all that comes with them)",
        "Use fewer qubits (for QPA: a larger chunk size) or a smaller batch",
    )  # fmt: skip


def require_bytes(needed: int, device: torch.device, what: str, advice: str) -> None:
    """Raises `EngineError` if `needed` bytes are not free: what needs how much, what is free, what to do."""
    if needed < WORTH_CHECKING:
        return
    free = available_bytes(device)
    if needed > free:
        raise EngineError(f"{what} need about {_gib(needed)} GiB; {_gib(free)} GiB are free on {device}. {advice}")


def _gib(number: int) -> str:
    """Bytes in GiB; a power of two where they are beyond what floats and readers take."""
    return f"{number / 2**30:,.1f}" if number < 2**80 else f"2**{number.bit_length() - 31}"
