"""Refuses a simulation that cannot fit, before it starts."""

from __future__ import annotations

import torch

from qpeft.errors import EngineError

STATES_HELD = 6  # state, cotangent, their pair, one temporary pair: the peak of forward and adjoint backward
WORTH_CHECKING = 2**26  # bytes; below this no machine that runs torch is short


def state_bytes(num_qubits: int, states: int, dtype: torch.dtype) -> int:
    """Bytes a forward and adjoint backward pass needs at its peak for `states` states of `num_qubits` qubits."""
    return STATES_HELD * states * dtype.itemsize << num_qubits


def available_bytes(device: torch.device) -> int:
    """Bytes free on the device now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(psutil.virtual_memory().available)


def require_memory(num_qubits: int, states: int, dtype: torch.dtype, device: torch.device) -> None:
    """Raises `EngineError` if a simulation needs more memory than is free, saying how much it needs."""
    what = f"{num_qubits} qubits ({states} state(s) of 2**{num_qubits} numbers, {STATES_HELD} copies)"
    require_bytes(
        state_bytes(num_qubits, states, dtype), device, what,
        "Use fewer qubits (for QPA: a larger chunk size) or a smaller batch",
    )  # fmt: skip


def require_bytes(needed: int, device: torch.device, what: str, advice: str) -> None:
    """Raises `EngineError` if `needed` bytes are not free: what needs how much, what is free, what to do."""
    if needed < WORTH_CHECKING:
        return
    free = available_bytes(device)
    if needed > free:
        raise EngineError(
            f"{what} need about {needed / 2**30:,.1f} GiB; {free / 2**30:,.1f} GiB are free on {device}. {advice}"
        )
