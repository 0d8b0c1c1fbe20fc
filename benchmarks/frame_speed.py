"""Frames of Quantum-PEFT: time and orthogonality error of every map against N, beside what torch and PennyLane offer.

All contenders of one N run in turns, and every time is the median over the turns; the peers' times are also given as
ratios to our frame of the same map. The error is the largest entry of |U^T U - I| of `--count` random float32 frames,
the product taken in float64. Peers build N x N matrices: each is left out from the N on where a call, growing on as
before, would take more than `--slowest` seconds, or where one matrix for each frame takes more than 1 GiB, and the
output says so. A second part generates 252 Pauli frames of N = 16384, K = 16 (a model of 126 layers with two targets
each) in one call.

    python benchmarks/frame_speed.py
    python benchmarks/frame_speed.py --sizes 8 64 512 --rounds 2
    python benchmarks/frame_speed.py --device cuda --plot runs/frames_gpu
    OMP_NUM_THREADS=1 python benchmarks/frame_speed.py

The last is for a machine that does other work: threads that wait for each other there lose whole slices of time.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from frame_contenders import (
    MAPS,
    PAULI,
    PEERS,
    SERIES,
    TAYLOR,
    TAYLOR_3,
    Contender,
    init_scales,
    maps_of,
    of_frame,
    peer,
)
from in_turns import in_turns
from many_frames import many_frames
from rich.console import Console
from rich.progress import track
from torch import Tensor

from qpeft.training.plots import COLOURS, canvas

REQUIRED = 1e-5  # orthogonality error of float32 Pauli frames at N = 16384
GIB = 2**30
AT_LEAST = 0.02  # seconds a contender runs in each turn


@dataclass
class Measured:
    forward: float  # seconds
    gradient: float  # seconds of forward and gradient
    error: float


Found = dict[str, dict[int, Measured]]  # by contender and N


@torch.no_grad()
def orthogonality_error(frames: Tensor) -> float:
    frames = frames.double()
    identity = torch.eye(frames.shape[-1], dtype=frames.dtype, device=frames.device)
    return (frames.mT @ frames - identity).abs().max().item()


def measure(contenders: dict[str, Contender], rounds: int) -> dict[str, Measured]:
    work = {(name, kind): job for name, given in contenders.items() for kind, job in given.jobs().items()}
    medians = {key: statistics.median(seconds) for key, seconds in in_turns(work, rounds, AT_LEAST).items()}
    return {
        name: Measured(medians[name, "forward"], medians[name, "gradient"], orthogonality_error(given.generate()))
        for name, given in contenders.items()
    }


def reason_to_stop(before: dict[int, Measured], size: int, count: int, slowest: float) -> str:
    """Why a peer is not run at this N; empty if it is."""
    memory = 4 * count * size**2 / GIB
    if memory > 1:
        return f"one {size} x {size} matrix for each frame takes {memory:.0f} GiB"
    if len(before) > 1:
        (smaller, first), (larger, last) = [(n, row.gradient) for n, row in before.items()][-2:]
        exponent = math.log(last / first) / math.log(larger / smaller)
        expected = last * (size / larger) ** exponent
        if expected > slowest:
            return f"{last:.2g} s at N = {larger} would grow to {expected:.2g} s, as N^{exponent:.1f}"
    return ""


def sweep(arguments: argparse.Namespace) -> tuple[Found, list[str]]:
    """What was measured, and which peers were left out and why."""
    found: Found = {name: {} for name in (*MAPS, *PEERS)}
    running, left_out = list(PEERS), []
    for size in track(arguments.sizes, description="sizes", console=Console(stderr=True), transient=True):
        given = (size, arguments.columns, arguments.count)
        with torch.device(arguments.device):
            contenders = {name: of_frame(MAPS[name](*given)) for name in maps_of(size)}
            for name in tuple(running):
                reason = reason_to_stop(found[name], size, arguments.count, arguments.slowest)
                if reason:
                    left_out.append(f"{name} is left out from N = {size} on: {reason}")
                    running.remove(name)
                else:
                    contenders[name] = peer(name, *given)
        for name, result in measure(contenders, arguments.rounds).items():
            found[name][size] = result
    return found, left_out


def number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def print_table(title: str, sizes: list[int], rows: dict[str, list[str]]) -> None:
    print(f"\n{title}\n\n| N | {' | '.join(map(str, sizes))} |\n| --- |{' ---: |' * len(sizes)}")
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells)} |")


def print_tables(found: Found, sizes: list[int]) -> None:
    kinds: dict[str, Callable[[Measured], str]] = {
        "forward, ms": lambda m: number(1000 * m.forward),
        "forward + gradient, ms": lambda m: number(1000 * m.gradient),
        "largest |U^T U - I|, float32": lambda m: f"{m.error:.1e}",
    }
    for title, show in kinds.items():
        print_table(
            title, sizes, {name: [show(row[n]) if n in row else "" for n in sizes] for name, row in found.items()}
        )
    print_table("forward + gradient, peers as ratios to our frame of the same map", sizes, {
        f"{name} / {mine}": [
            f"{number(row.gradient / found[mine][n].gradient)}x" if (row := found[name].get(n)) else "" for n in sizes
        ]
        for name, mine in PEERS.items()
    })  # fmt: skip


def print_findings(found: Found, sizes: list[int]) -> None:
    """What the paper's figure says, and what holds here."""
    fastest, worst = [], []
    ratios: dict[str, list[float]] = {name: [] for name in (TAYLOR_3, TAYLOR, PAULI)}
    for n in sizes:
        at = {name: found[name][n] for name in MAPS if n in found[name]}
        fastest.append(min(at, key=lambda name: at[name].gradient))
        worst.append(max((name for name in at if name not in SERIES), key=lambda name: at[name].error))
        for name, past in ratios.items():
            past.append(at[name].gradient / at[fastest[-1]].gradient)
    print_table("our fastest map (forward + gradient), and that of the largest error, cut series aside", sizes, {
        "fastest": fastest, "largest error": worst,
        **{f"{name} / fastest": [f"{ratio:.2g}x" for ratio in past] for name, past in ratios.items()},
    })  # fmt: skip
    spans = ", ".join(f"{name} {min(past):.2g}x to {max(past):.2g}x" for name, past in ratios.items())
    last = found[PAULI][sizes[-1]].error
    print(
        "\nThe paper's figure 6 has the Taylor map among the fastest and the Pauli map with the largest error. Here,\n"
        f"times are beside the fastest: {spans}.\nThe Pauli map has the largest error at {worst.count(PAULI)} of "
        f"{len(sizes)} sizes, cut series aside: their error is their remainder, which hangs\n"
        "on the scale of B, and the paper does not give it.\n\n"
        f"{'PASS' if last < REQUIRED else 'FAIL'}: the Pauli frame's error at N = {sizes[-1]} is {last:.1e}, required "
        f"below {REQUIRED:.0e}"
    )


def plot(found: Found, path: Path, title: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    colours, marks = (*COLOURS, "#000000", "#7F7F7F", "#8C5109"), "osD^vP<X>"
    look: dict[str, dict[str, Any]] = {
        name: {"color": colours[i], "marker": marks[i], "markersize": 4.5, "linewidth": 1.4}
        for i, name in enumerate(MAPS)
    }
    look |= {name: {**look[mine], "linestyle": ":", "markerfacecolor": "white"} for name, mine in PEERS.items()}
    with canvas(path.with_suffix(".png"), path.with_suffix(".svg"), size=(9, 4.2)) as drawing:
        time, error = drawing.subplots(1, 2)
        for name, row in found.items():
            time.loglog(list(row), [1000 * m.gradient for m in row.values()], label=name, **look[name])
            error.loglog(list(row), [m.error for m in row.values()], **look[name])
        sizes = list(found[PAULI])
        error.axhline(REQUIRED, color="0.4", linewidth=1, linestyle="--")
        error.text(sizes[0], 1.15 * REQUIRED, "required of Pauli", color="0.3", fontsize=8)
        time.set(ylabel="forward + gradient (ms)")
        error.set(ylabel=r"largest entry of $|U^{\mathsf{T}} U - I|$")
        for axes in (time, error):
            axes.set(xlabel="rows of a frame, N")
            axes.set_xticks(sizes, [str(n) if i % 2 == 0 or len(sizes) < 7 else "" for i, n in enumerate(sizes)])
            axes.minorticks_off()
        drawing.get_layout_engine().set(wspace=0.05)
        drawing.suptitle(title, fontsize=10)
        drawing.legend(loc="outside right center", fontsize=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2**q for q in range(3, 15)], help="N, powers of two")
    parser.add_argument("--columns", type=int, default=4, help="K (default: 4)")
    parser.add_argument("--count", type=int, default=32, help="frames in one call (default: 32)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender (default: 5)")
    parser.add_argument("--slowest", type=float, default=2.0, help="seconds a peer's call may take (default: 2)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--plot", type=Path, default=Path("runs/frames"), help="written as .png and .svg")
    arguments = parser.parse_args()
    arguments.sizes = sorted(set(arguments.sizes))
    if any(n & (n - 1) or n < max(4, arguments.columns) for n in arguments.sizes):
        parser.error(f"--sizes are powers of two, at least 4 and K = {arguments.columns}; got {arguments.sizes}")
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    where = torch.cuda.get_device_name() if arguments.device == "cuda" else f"CPU threads: {torch.get_num_threads()}"
    title = f"{arguments.count} frames of N x {arguments.columns} in one call, float32, {where}"
    print(f"{title}; load average of the machine {os.getloadavg()[0]:.1f}")
    many_frames(arguments.device, arguments.rounds)
    found, left_out = sweep(arguments)
    print_tables(found, arguments.sizes)
    print("\n" + "\n".join(left_out))
    print("\nEntries of B start as N(0, scale^2 / N), those of torch's maps as the exponential's; angles of Pauli are")
    print("uniform in [-pi, pi], and the scale of Givens multiplies the angles of uniformly random chains. Scales:")
    print(", ".join(f"{name} {scale:g}" for name, scale in init_scales().items()))
    print_findings(found, arguments.sizes)
    plot(found, arguments.plot, title)
    print(f"\nplot: {arguments.plot.with_suffix('.png')} and .svg; load average now {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
