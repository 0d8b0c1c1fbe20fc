"""`qpeft circuit analyse`: what states ansätze reach, against qubits and layers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from qpeft.circuit_analysis import TABLE, Row, Settings, expected, first_bin, plan, total_work, write_table
from qpeft.circuit_analysis import analyse as run
from qpeft.errors import RunError
from qpeft.options import whole_numbers
from qpeft.qcircuits import ANSATZE
from qpeft.qcircuits.expressivity import BINS, SAMPLES
from qpeft.qcircuits.haar import haar_entanglement
from qpeft.training.expressivity_plots import entangling_plot, expressibility_plot
from qpeft.training.runs import writing

CROWDED = 0.9  # share of random states' fidelities in one bin beyond which the histogram says little

console = Console()


def analyse(
    ansatze: Annotated[
        list[str] | None,
        typer.Argument(metavar="ANSATZ", help=f"of {', '.join(ANSATZE)} (all of them)", show_default=False),
    ] = None,
    qubits: Annotated[str, typer.Option(help="numbers of qubits, e.g. 2-4 or 2,4,6")] = "4",
    reps: Annotated[str, typer.Option(help="numbers of layers, e.g. 1-4 or 1,2,4,8")] = "1,2,4,8",
    samples: Annotated[int, typer.Option(help="pairs of states, and states for the entanglement, a circuit")] = SAMPLES,
    bins: Annotated[int, typer.Option(help="bins of the histogram of fidelities")] = BINS,
    seed: Annotated[int, typer.Option(help="decides the random angles")] = 0,
    output: Annotated[
        Path | None, typer.Option(help="folder for the table (CSV) and two plots (PNG, SVG)", show_default=False)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the analysis in the output folder")] = False,
) -> None:
    """Measure how much of the state space ansätze reach, and how entangled their states are.

    - expressibility: the fidelities of pairs of states at random angles, compared with those of Haar-random states. The
    number is a Kullback-Leibler divergence in nats: 0 is as random as can be; a circuit that does nothing has
    (2^N - 1) ln(bins).

    - to real states: the same against random states of real amplitudes, for circuits of real gates (ry, cnot), which
    never reach more than these.

    - entangling capability: the mean Meyer-Wallach entanglement; 0 if all states are products, 1 for GHZ states.

    ± is one standard error. The last rows say what so many samples of random states show, about the least to expect.
    Read the columns together: fidelities tell little about rx_cnot, whose states are more entangled than random ones.

    After Sim, Johnson and Aspuru-Guzik (arXiv 1905.10876). For circuits of your own, see qpeft.qcircuits.expressivity.

    Example: qpeft circuit analyse ry_cnot rx_cnot --qubits 4,6 --reps 1,2,4,8,16 --output runs/expressivity
    """
    settings = Settings(samples, bins, seed)
    sizes, layers = whole_numbers("--qubits", qubits), whole_numbers("--reps", reps, 0)
    points = plan(list(dict.fromkeys(ansatze or ANSATZE)), sizes, layers, settings)
    if output is not None:
        _claim(output, overwrite)
    rows: list[Row] = []
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as display:
        task = display.add_task("Sampling", total=total_work(points, settings))
        for row in run(points, settings, lambda work: display.advance(task, work)):
            rows.append(row)
            if output is not None:
                write_table(output, rows, settings)  # an interrupted analysis keeps what it has
    for size in sizes:
        console.print(_table(size, [row for row in rows if row.qubits == size], settings))
        share = first_bin(size, settings)
        if share > CROWDED:
            console.print(
                f"[yellow]Mind:[/yellow] {share:.1%} of the fidelities of random states on {size} qubits lie in the "
                f"first of {bins} bins, so expressibility tells little. Give more, e.g. --bins {2**size}.",
                highlight=False,
            )  # fmt: skip
    if output is not None:
        expressibility_plot(_pictures(output, "expressibility"), rows, settings)
        entangling_plot(_pictures(output, "entangling_capability"), rows)
        console.print(f"Table and plots: {output}", highlight=False, markup=False, soft_wrap=True)


def _claim(folder: Path, overwrite: bool) -> None:
    """Makes the output folder before the work; raises `RunError` if it is no folder, or holds something."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"the output {folder} is a file; give a folder")
    if (folder / TABLE).is_file():
        if not overwrite:
            raise RunError(f"{folder} holds an analysis. Replace it by --overwrite, or give another --output")
    elif folder.is_dir() and any(folder.iterdir()):
        raise RunError(f"the output folder {folder} is not empty and holds no analysis; give another --output")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


def _pictures(folder: Path, name: str) -> list[Path]:
    return [folder / f"{name}.{suffix}" for suffix in ("png", "svg")]


def _table(size: int, rows: list[Row], settings: Settings) -> Table:
    title = f"{size} qubit{'s' * (size > 1)}"
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=0, title=title, title_justify="left")
    table.add_column("ansatz", overflow="fold")
    for column in ("reps", "angles", "depth", "expressibility", "to real\nstates", "entangling\ncapability"):
        table.add_column(column, justify="right", no_wrap=True)
    for index, row in enumerate(rows, 1):
        table.add_row(
            row.ansatz, str(row.reps), str(row.parameters), str(row.depth),
            _with_error(row.expressibility, row.expressibility_error),
            _with_error(row.real_expressibility, row.real_expressibility_error),
            _with_error(row.entangling_capability, row.entangling_capability_error), end_section=index == len(rows),
        )  # fmt: skip
    for states, real in (("complex", ""), ("real", f"{expected(size, settings, 'real', 'real'):.3f}")):
        shown = f"{expected(size, settings, states):.3f}"
        table.add_row(f"random {states} states", "", "", "", shown, real, f"{haar_entanglement(size, states):.3f}")
    return table


def _with_error(value: float | None, error: float | None) -> str:
    return "" if value is None else f"{value:.3f}±{error:.3f}"
