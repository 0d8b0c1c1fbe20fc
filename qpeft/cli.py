"""The command line: one thin function a command."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from qpeft.adapter_commands import count, methods
from qpeft.errors import QpeftError
from qpeft.export_command import export
from qpeft.options import build, with_options
from qpeft.quantum_commands import circuit_app, devices, engines
from qpeft.terminal import quiet, wrapped
from qpeft.trainability_command import gradient_variance
from qpeft.training.adapter_options import CountConfig
from qpeft.training.config import TrainConfig
from qpeft.training.runs import read_settings
from qpeft.training.trainability.config import StudyConfig

if TYPE_CHECKING:
    from qpeft.training.tasks import Task

app = typer.Typer(
    name="qpeft", no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown",
    help="Quantum circuits that write the weights adapting a large language model. Start with: qpeft demo",
)  # fmt: skip
console = Console(quiet=os.environ.get("RANK", "0") != "0")  # of several ranks, the first one speaks


@app.command(name="train")
@with_options(TrainConfig, required=("model", "data"))
def train(
    *,
    config: Annotated[
        Path | None, typer.Option(help="TOML file of settings; flags win over it", show_default=False)
    ] = None,
    **flags: Any,
) -> None:
    """Adapt a language model to a text or to labelled texts, and export the result.

    By default a circuit generates the LoRA weights of the output head; --method and --targets choose others (qpeft
    methods lists them). The output folder then holds the adapter, its export (a plain LoRA, or what suits the method),
    metrics.json, the settings, a loss plot and report.md.

    Example: qpeft train --model embedded --data embedded --budget 1200 --steps 200

    Example: qpeft train --task classification --model FOLDER --data SST-2 --targets q_proj,v_proj
    """
    from qpeft.adapters.method_table import METHODS
    from qpeft.training.finetune import train as run
    from qpeft.training.report import warnings_for
    from qpeft.training.tasks import task_for

    settings = build(TrainConfig, read_settings(config) if config else {}, flags)
    METHODS[settings.adapter.method].refuse_unused(settings.settings, CountConfig().settings)
    quiet()
    try:
        result = run(settings, console)
    except KeyboardInterrupt:
        console.print("Interrupted. The run goes on from its last checkpoint with --resume.")
        raise typer.Exit(130) from None
    task = task_for(settings)
    console.print(_metrics_table(task, {settings.adapter.method: result.metrics}))
    for text in warnings_for(task, result.metrics):
        console.print(f"[yellow]Mind:[/yellow] {text}.")
    console.print(f"Results: {result.folder}", highlight=False, markup=False)


@app.command(name="compare")
@with_options(TrainConfig, required=("model", "data"))
def compare(
    *,
    vary: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE,VALUE: any setting below; may be repeated", show_default=False)
    ] = None,
    seeds: Annotated[int, typer.Option(help="runs of each combination; seeds count up from --seed")] = 3,
    config: Annotated[
        Path | None, typer.Option(help="TOML file of common settings; flags win over it", show_default=False)
    ] = None,
    **flags: Any,
) -> None:
    """Train the same adapter from the same start in every combination of varied settings.

    The output folder then holds the table (table.csv, report.md), plots of the loss and of the final metric, and the
    runs. Interrupted, it goes on with --resume. In a list, + joins the items (targets=lm_head,q_proj+v_proj); "default"
    leaves a setting to its own default.

    What the circuit adds over its classical controls: --vary source=circuit,frozen,mlp,free,none trains each control
    with the circuit's sizes, and once more at equal budget.

    Example: qpeft compare --model embedded --data embedded --vary engine=exact,exact:10x --vary ansatz=ry_cnot,rx_cnot

    Example: qpeft compare --model embedded --data embedded --vary source=circuit,frozen,mlp,free,none --seeds 5
    """
    from qpeft.training.vary import plan

    planned = plan(vary or (), seeds, read_settings(config) if config else {}, flags)
    from qpeft.training.compare import compare as run
    from qpeft.training.compare_conclusions import baseline, conclusions
    from qpeft.training.compare_terminal import terminal_table

    quiet()
    try:
        found = run(planned, console)
    except KeyboardInterrupt:
        console.print("Interrupted. The comparison goes on with --resume; finished runs are not repeated.")
        raise typer.Exit(130) from None
    console.print(terminal_table(found, console.width))
    for line in (*baseline(found), *conclusions(found)):
        console.print(wrapped(f"* {line}", console.width), highlight=False, markup=False, soft_wrap=True)
    console.print(f"Report, tables and plots: {found.folder}", highlight=False, markup=False)
    if found.failed:
        _report(f"{len(found.failed)} of {len(found.outcomes)} runs failed; {found.folder}/report.md says why")
        raise typer.Exit(1)


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="folder for the results")] = Path("runs/demo"),
    steps: Annotated[int, typer.Option(help="optimiser steps of each run")] = 200,
) -> None:
    """Adapt the embedded model to the Python language reference, with QPA and LoRA (under a minute on two cores)."""
    from qpeft.training.demo import demo as run

    quiet()
    found = run(output, steps, overwrite=True, console=console)
    console.print(_metrics_table(found.task, {name: result.metrics for name, result in found.results.items()}))
    console.print(f"\n[bold]A line before:[/bold] {found.line_before}", highlight=False)
    console.print("[bold]A line after QPA:[/bold]", Text(found.line_after))
    console.print()
    for name, result in found.results.items():
        console.print(f"{name}: {result.folder} (adapter/, lora/, report.md)", highlight=False, markup=False)
    console.print(f"loss curves: {found.plot}", highlight=False, markup=False)


app.command(name="count")(with_options(CountConfig, required=())(count))
app.command(name="methods")(methods)
app.command(name="engines")(engines)
app.command(name="devices")(devices)
app.command(name="export")(export)
app.command(name="gradient-variance")(with_options(StudyConfig, required=())(gradient_variance))
app.add_typer(circuit_app, name="circuit")


def _metrics_table(task: Task, metrics: dict[str, dict[str, Any]]) -> Table:
    """A row a run, of runs that were measured alike."""
    first = next(iter(metrics.values()))
    shown, facts = task.metrics(first["after"]), task.facts(first["after"])
    head = ["head"] if first["parameters"]["head"] else []
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=0)
    table.add_column("method")
    for column in ("adapter", *head, *(metric.name for metric in shown), *facts, "ms/step"):
        table.add_column(column, justify="right")
    for name, found in metrics.items():
        before, after, counts = found["before"], found["after"], found["parameters"]
        table.add_row(
            name, f"{counts['trained'] - counts['head']:,}", *([f"{counts['head']:,}"] if head else []),
            *(metric.change(before, after) for metric in shown), *task.facts(after).values(),
            _milliseconds(found["seconds_per_step"]),
        )  # fmt: skip
    return table


def _milliseconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{1000 * seconds:.0f}"


def _report(message: str) -> None:
    """Prints an error as it is: its brackets are no markup."""
    Console(stderr=True).print(Text.assemble(("Error:", "bold red"), " ", message), soft_wrap=True)


def _complain(message: str) -> None:
    """The error is the input's: exit code 2."""
    _report(message)
    sys.exit(2)


def main() -> None:
    """Runs the command line; input that cannot be worked with is one message and exit code 2."""
    try:
        app()
    except QpeftError as error:
        _complain(str(error))
    except OSError as error:
        _complain(f"{error.filename or 'a file'}: {error.strerror or error}")
