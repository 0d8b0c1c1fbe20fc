"""The commands that need no model: `qpeft engines`, `qpeft devices` and `qpeft circuit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from qpeft.analysis_command import analyse
from qpeft.engines import ENGINES, GRAMMAR, EngineEntry
from qpeft.errors import ConfigError
from qpeft.noise.devices import snapshot_names
from qpeft.noise.survey import survey
from qpeft.qcircuits import ANSATZE
from qpeft.qcircuits.interop.rendering import FORMATS, render

circuit_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="markdown",
    help="Ansätze: list them, show one in any format, and analyse what states they reach.",
)  # fmt: skip
console = Console()


def engines() -> None:
    """List what a circuit can be run on: the values of --engine.

    Of the gradients, the first of a line is the default; --diff-method chooses another.
    """
    table = Table("engine", "gradients", "installed", show_lines=True)
    for name, entry in ENGINES.items():
        gradients = {"no shots": entry.diff_methods, "with shots": entry.sampled_diff_methods}
        table.add_row(
            Text.assemble((usage(name, entry), "bold"), f"\n{entry.summary}"),
            "\n".join(f"{kind}: {', '.join(methods)}" for kind, methods in gradients.items() if methods),
            "yes" if entry.is_installed else "no",
        )
    console.print(table)
    console.print(f"An engine is {GRAMMAR}.", highlight=False, markup=False)
    for name, entry in ENGINES.items():
        if entry.device:
            console.print(f"DEVICE of {name}: {entry.device}.", highlight=False, markup=False)
    for name, entry in ENGINES.items():
        if not entry.is_installed:
            console.print(f"{name} is not installed: {entry.install}", highlight=False, markup=False, soft_wrap=True)


def devices(
    qubits: Annotated[int, typer.Option(help="length of the line of qubits to find on each")] = 8,
) -> None:
    """List the devices whose noise can be simulated: what may follow the @ of pauli, aer and hardware.

    Errors are medians of the calibration that ships with qiskit-ibm-runtime; the fidelity is that of the best line of
    --qubits qubits, each coupler and each readout once. The live device: hardware@NAME, with an IBM account.

    Example: qpeft devices --qubits 5
    """
    if qubits < 1:
        raise ConfigError(f"--qubits is {qubits}; it must be at least 1")
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=0)
    line = f"best line\nof {qubits}"  # the one column that may wrap
    for column in ("device", "qubits", "gate", "gate\nerror", "readout\nerror", "calibrated", line, "fidelity"):
        table.add_column(column, no_wrap=column != line)
    rows = list(track(survey(qubits), "Reading calibrations", len(snapshot_names()), console=console, transient=True))
    for row in sorted(rows, key=lambda row: (-(row.fidelity or 0.0), row.name)):
        table.add_row(
            row.name, str(row.num_qubits), row.gate, _percent(row.pair_error), _percent(row.readout_error),
            row.calibrated or "unknown", "none" if row.line is None else " ".join(map(str, row.line)),
            "" if row.fidelity is None else f"{row.fidelity:.2f}",
        )  # fmt: skip
    console.print(table)


def _percent(error: float | None) -> str:
    return "unknown" if error is None else f"{error:.2%}"


@circuit_app.command(name="list")
def list_ansatze() -> None:
    """List the ansätze: the values of --ansatz."""
    table = Table("ansatz", "a layer", "source")
    for name, entry in ANSATZE.items():
        table.add_row(name, Text(entry.summary), Text(entry.source))
    console.print(table)


@circuit_app.command(name="show")
def show(
    ansatz: Annotated[str, typer.Option(help=f"one of {', '.join(ANSATZE)}")] = "ry_cnot",
    qubits: Annotated[int, typer.Option(help="number of qubits")] = 5,
    reps: Annotated[int, typer.Option(help="number of layers")] = 2,
    to: Annotated[
        str, typer.Option(help="; ".join(f"{name}: {entry.summary}" for name, entry in FORMATS.items()))
    ] = "text",
    angles: Annotated[
        str | None, typer.Option(help="values for the parameters, in radians: 0.1,0.2,... or one for all")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="file to write (the terminal; a picture needs a file)")] = None,
) -> None:
    """Show the circuit of an ansatz, or write it for another program.

    Examples: qpeft circuit show --qubits 3 --reps 1

    qpeft circuit show --ansatz rx_cnot --to qasm3 --output circuit.qasm

    qpeft circuit show --to torchquantum --angles 0.1
    """
    circuit = ANSATZE[ansatz](qubits, reps)
    width = None if output else console.width
    found = render(to, circuit, _numbers(angles, circuit.num_parameters), width)
    if output is None:
        if isinstance(found, bytes):
            raise ConfigError(f"{to!r} is no text for a terminal; name a file, e.g. --output circuit.{to}")
        typer.echo(found)
        return
    output.write_bytes(found if isinstance(found, bytes) else f"{found}\n".encode())
    console.print(f"Written: {output}", highlight=False, markup=False, soft_wrap=True)


circuit_app.command(name="analyse")(analyse)


def _numbers(text: str | None, number: int) -> list[float] | None:
    """The angles given on the command line; one alone stands for all."""
    if text is None:
        return None
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--angles is {text!r}; give numbers with commas between, e.g. 0.1,-0.2") from None
    return values * number if len(values) == 1 else values


def usage(name: str, entry: EngineEntry) -> str:
    """What stands on the command line for an engine, e.g. ``aer[@DEVICE][:SHOTS]``."""
    device = "" if entry.device is None else "@DEVICE" if entry.needs_device else "[@DEVICE]"
    shots = "" if not entry.sampled_diff_methods else "[:SHOTS]" if entry.diff_methods else ":SHOTS"
    return name + device + shots
