"""Random numbers that are the same in every version of every library.

A frozen random factor is not saved: it is rebuilt from its seed. numpy's Philox raw stream is a counter-based
generator (Salmon et al., SC 2011) whose bits do not change between versions; only those bits are used, and a checksum
guards them.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor


def uniform(seed: int, size: int) -> Tensor:
    """`size` float32 numbers in [-1, 1) determined by `seed` alone."""
    bits = np.random.Philox(key=seed).random_raw(size) >> np.uint64(40)  # 24 bits: all that float32 holds
    return torch.from_numpy((bits.astype(np.float32) * np.float32(2.0**-23)) - np.float32(1.0))


def checksum(values: Tensor) -> str:
    """A short SHA-256 of the little-endian float32 bytes."""
    data = values.detach().cpu().contiguous().numpy().astype("<f4").tobytes()
    return hashlib.sha256(data).hexdigest()[:16]


def fingerprint(values: Tensor) -> int:
    """A number below 2**64 that follows from the values, rounded to float32: a hash."""
    return int(checksum(values.float()), 16)
