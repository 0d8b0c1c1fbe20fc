"""`qpeft gradient-variance`: how large the gradients of circuits are at random angles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from qpeft.options import build
from qpeft.terminal import quiet
from qpeft.training.runs import read_settings
from qpeft.training.trainability.config import StudyConfig, as_texts

console = Console()


def gradient_variance(
    *,
    config: Annotated[
        Path | None, typer.Option(help="TOML file of settings; flags win over it", show_default=False)
    ] = None,
    **flags: Any,
) -> None:
    """Find how fast gradients vanish with the number of qubits and layers.

    The variance of dL/dtheta over random angles, for every ansatz, with confidence bands and the fitted decay. The
    output folder then holds tables, plots (PNG and SVG) and every derivative as Parquet. Interrupted, it goes on with
    --resume.

    Example: qpeft gradient-variance --ansatz ry_cnot,rx_cnot --qubits 2-6 --reps 1,4,16

    Example: qpeft gradient-variance --qubits 2-5 --reps 1,4 --engines exact,exact:256,pauli@ibm_torino

    Example: qpeft gradient-variance --observables loss,local --qubits 4-8 --reps 1,4 --steps 0,20
    """
    settings = build(StudyConfig, as_texts(read_settings(config)) if config else {}, flags)
    from qpeft.training.trainability.report import decay_table, variance_table
    from qpeft.training.trainability.study import study

    quiet()
    try:
        found = study(settings, console)
    except KeyboardInterrupt:
        console.print("Interrupted. The study goes on with --resume; finished points are not run again.")
        raise typer.Exit(130) from None
    header, *rows = decay_table(found.table) if found.table.has_decays else variance_table(found.table)
    table = Table(*header, box=SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(f"Report, tables and plots: {found.folder}", highlight=False, markup=False)
