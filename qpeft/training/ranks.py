"""The processes of a run, if a launcher (torchrun, accelerate) has started several: rank 0 writes, the others train."""

from __future__ import annotations

import os

import torch


def is_main() -> bool:
    """Whether this process is rank 0, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def wait_for_all() -> None:
    """Returns when every rank has come here; at once in a single process."""
    from accelerate import PartialState

    PartialState(cpu=not torch.cuda.is_available()).wait_for_everyone()
