"""The maps under test, and what several tests do with them."""

import torch
from torch.func import functional_call

from qpeft.generators.frames import (
    CayleyFrame,
    ExponentialFrame,
    GivensFrame,
    HouseholderFrame,
    NeumannFrame,
    TaylorFrame,
)

LIE = (ExponentialFrame, TaylorFrame, CayleyFrame, NeumannFrame)
TRUNCATED = (HouseholderFrame, GivensFrame)
MAPS = (*LIE, *TRUNCATED)
# Every map, and each way it truncates.
VARIANTS = [(map_, {}) for map_ in LIE] + [(map_, {"truncate": t}) for map_ in TRUNCATED for t in ("columns", "rows")]
IDS = [f"{map_.__name__}-{options.get('truncate', 'columns')}" for map_, options in VARIANTS]


def of_norm(frame, norm):
    """`frame` in float64 with ||A||_2 = `norm`."""
    frame = frame.double()
    with torch.no_grad():
        A = torch.nn.functional.pad(frame.block(), (0, frame.size - frame.intrinsic_rank))
        A = A - A.mT
        frame.entries.mul_(norm / torch.linalg.matrix_norm(A, ord=2)[:, None])
    return frame


def generate(frame, entries):
    return functional_call(frame, {"entries": entries})


def jacobian_rank(frame):
    """Directions in which the frame's numbers can move it."""
    frame = frame.double()
    jacobian = torch.autograd.functional.jacobian(lambda entries: generate(frame, entries), frame.entries.detach())
    return int(torch.linalg.matrix_rank(jacobian.reshape(-1, frame.num_parameters), rtol=1e-8))
