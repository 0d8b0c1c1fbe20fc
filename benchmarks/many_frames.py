"""The frames of a large language model in one call: 252 Pauli frames of N = 16384, K = 16."""

from __future__ import annotations

import resource
import statistics
from collections.abc import Callable

import torch
from frame_contenders import of_frame
from in_turns import in_turns

from qpeft.generators.frames import PauliFrame

GIB = 2**30


def many_frames(device: str, rounds: int, count: int = 252, size: int = 16384, columns: int = 16) -> None:
    """One call for all frames against a call each. Run it first: of a process's memory only the peak is known."""

    def peak() -> float:
        if device == "cuda":
            return torch.cuda.max_memory_allocated() / GIB
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    with torch.device(device):
        together = PauliFrame(size, columns, count)
        alone = [PauliFrame(size, columns) for _ in range(count)]
    start, peaks = peak(), {}
    with torch.no_grad():
        together()
    peaks["forward"] = peak() - start
    jobs = of_frame(together).jobs()
    jobs["gradient"]()
    peaks["gradient"] = peak() - start
    each = [of_frame(frame).jobs() for frame in alone]

    def one_by_one(kind: str) -> Callable[[], None]:
        def job() -> None:
            for one in each:
                one[kind]()

        return job

    work = {(kind, way): job for kind in jobs for way, job in (("one", jobs[kind]), ("each", one_by_one(kind)))}
    medians = {key: statistics.median(seconds) for key, seconds in in_turns(work, rounds, at_least=0.02).items()}
    weight = count * size * columns * 4 / GIB
    print(f"\n{count} Pauli frames (L=1) of N = {size}, K = {columns}: {weight:.2f} GiB of float32\n")
    print("| | one call | memory taken | a call each |\n| --- | ---: | ---: | ---: |")
    for kind, label in {"forward": "forward", "gradient": "forward + gradient, and the gradient given"}.items():
        one, separate = medians[kind, "one"], medians[kind, "each"]
        cells = (f"{1000 * one:.0f} ms", f"{peaks[kind]:.2f} GiB", f"{1000 * separate:.0f} ms ({separate / one:.2g}x)")
        print(f"| {label} | {' | '.join(cells)} |")
    print(f"\nlargest |U^T U - I| of these frames: {together.orthogonality_error().max().item():.1e}", flush=True)
