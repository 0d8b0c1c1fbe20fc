"""The command line: one thin function a command."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from qpeft.errors import QpeftError
from qpeft.options import build, cli_parameters
from qpeft.quantum_commands import circuit_app, devices, engines
from qpeft.training.config import AdapterOptions, TrainConfig
from qpeft.training.runs import read_settings

app = typer.Typer(
    name="qpeft", no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown",
    help="Quantum circuits that write the weights adapting a large language model. Start with: qpeft demo",
)  # fmt: skip
console = Console()


def _with_options(tree: type, required: tuple[str, ...]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command one flag for every setting of a dataclass tree; it receives those that were given."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        def command(**flags: Any) -> None:
            function(**flags)

        own = [p for p in inspect.signature(function, eval_str=True).parameters.values() if p.kind is p.KEYWORD_ONLY]
        parameters = [*own, *cli_parameters(tree, required)]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        command.__doc__, command.__name__ = function.__doc__, function.__name__
        return command

    return decorate


@app.command(name="train")
@_with_options(TrainConfig, required=("model", "data"))
def train(
    *,
    config: Annotated[
        Path | None, typer.Option(help="TOML file of settings; flags win over it", show_default=False)
    ] = None,
    **flags: Any,
) -> None:
    """Adapt a language model to a text, and export the result as a plain LoRA.

    A circuit generates the LoRA weights of the output head (or of --targets). The output folder then holds the
    compact adapter, the exported LoRA, metrics.json, the settings, a loss plot and report.md.

    Example: qpeft train --model embedded --data embedded --budget 1200 --steps 200
    """
    from qpeft.training.finetune import train as run
    from qpeft.training.report import warnings_for

    settings = build(TrainConfig, read_settings(config) if config else {}, flags)
    _quiet()
    try:
        result = run(settings, console)
    except KeyboardInterrupt:
        console.print("Interrupted. The run goes on from its last checkpoint with --resume.")
        raise typer.Exit(130) from None
    console.print(_metrics_table({settings.adapter.method: result.metrics}))
    for text in warnings_for(result.metrics):
        console.print(f"[yellow]Mind:[/yellow] {text}.")
    console.print(f"Adapter, exported LoRA and report: {result.folder}", highlight=False, markup=False)


@app.command(name="compare")
@_with_options(TrainConfig, required=("model", "data"))
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

    The output folder then holds the table (table.csv, report.md), plots of the loss and of the final bits per byte, and
    the runs. Interrupted, it goes on with --resume. In a list, + joins the items (targets=lm_head,q_proj+v_proj);
    "default" leaves a setting to its own default.

    Example: qpeft compare --model embedded --data embedded --vary engine=exact,exact:10x --vary ansatz=ry_cnot,rx_cnot
    """
    from qpeft.training.vary import plan

    planned = plan(vary or (), seeds, read_settings(config) if config else {}, flags)
    from qpeft.training.compare import compare as run
    from qpeft.training.compare_report import shown_table

    _quiet()
    try:
        found = run(planned, console)
    except KeyboardInterrupt:
        console.print("Interrupted. The comparison goes on with --resume; finished runs are not repeated.")
        raise typer.Exit(130) from None
    header, rows = shown_table(found)
    shown = [place for place, column in enumerate(header) if column not in ("trained", "runs")]  # report.md has all
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=0)
    for place in shown:
        is_key = header[place] in planned.varied
        table.add_column(Text(header[place]), justify="left" if is_key else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(row[place]) for place in shown))
    console.print(table)
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

    _quiet()
    found = run(output, steps, overwrite=True, console=console)
    console.print(_metrics_table({name: result.metrics for name, result in found.results.items()}))
    console.print(f"\n[bold]A line before:[/bold] {found.line_before}", highlight=False)
    console.print("[bold]A line after QPA:[/bold]", Text(found.line_after))
    console.print()
    for name, result in found.results.items():
        console.print(f"{name}: {result.folder} (adapter/, lora/, report.md)", highlight=False, markup=False)
    console.print(f"loss curves: {found.plot}", highlight=False, markup=False)


@app.command(name="count")
def count(
    model: Annotated[str, typer.Option(help="model id on the hub, a folder, or embedded; only its config is read")],
    targets: Annotated[list[str] | None, typer.Option(help="layers to adapt (the output head)")] = None,
    rank: Annotated[int, typer.Option(help="rank of the update")] = 4,
    chunk_size: Annotated[list[int] | None, typer.Option(help="chunk sizes to count (a usual range)")] = None,
    budget: Annotated[int | None, typer.Option(help="most numbers to train; adds the chunk size it allows")] = None,
    preset: Annotated[str, typer.Option(help="default or paper")] = "default",
    ansatz: Annotated[str, typer.Option(help="a registered ansatz")] = "ry_cnot",
    reps: Annotated[int, typer.Option(help="layers of the ansatz")] = 8,
    hidden: Annotated[list[int] | None, typer.Option(help="widths of the hidden layers (the preset's)")] = None,
) -> None:
    """Count qubits, chunks and parameters against LoRA, before training anything.

    Example: qpeft count --model embedded --rank 4
    """
    from qpeft.training.counting import count as run

    _quiet()
    options = AdapterOptions(
        rank=rank, targets=targets, budget=budget, preset=preset, ansatz=ansatz, reps=reps, hidden=hidden
    )
    found = run(model, options, chunk_size or ())
    table = Table(title=f"QPA on {len(found.targets)} layer(s), {found.target_size:,} generated weights (r={rank})")
    for column in ("chunk size", "chunks", "qubits", "angles", "trained", f"of LoRA r={rank}", "of LoRA r=1"):
        table.add_column(column, justify="right")
    for spec in found.specs:
        table.add_row(
            f"{spec.chunk_size:,}", f"{spec.num_chunks:,}", str(spec.num_qubits),
            str(spec.circuit.num_parameters), f"{spec.num_parameters:,}",
            f"{spec.num_parameters / found.target_size:.1%}", f"{spec.num_parameters / found.lora_rank_1:.1%}",
        )  # fmt: skip
    console.print(table)
    console.print(
        f"LoRA r={rank} trains {found.target_size:,}, r=1 {found.lora_rank_1:,}. Where QPA is above 100% of r=1, "
        "LoRA of rank 1 is the smaller adapter.", highlight=False,
    )  # fmt: skip


app.command(name="engines")(engines)
app.command(name="devices")(devices)
app.add_typer(circuit_app, name="circuit")


def _metrics_table(metrics: dict[str, dict[str, Any]]) -> Table:
    table = Table()
    table.add_column("method")
    for column in ("trained", "bits/byte", "perplexity", "unknown", "ms/step"):
        table.add_column(column, justify="right")
    for name, found in metrics.items():
        before, after = found["before"], found["after"]
        table.add_row(
            name, f"{found['parameters']['trained']:,}",
            f"{before['bits_per_byte']:.3f} → {after['bits_per_byte']:.3f}",
            f"{before['perplexity']:.2f} → {after['perplexity']:.2f}",
            f"{after['unknown_share']:.1%}", _milliseconds(found["seconds_per_step"]),
        )  # fmt: skip
        if "paper_perplexity" in after:
            padded = f"{before['paper_perplexity']:.4f} → {after['paper_perplexity']:.4f}"
            table.add_row(f"{name}, the paper's padded metric", "", "", padded, "", "")
    return table


def _milliseconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{1000 * seconds:.0f}"


def _quiet() -> None:
    """Leaves the terminal to our own progress display."""
    import warnings

    import transformers

    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # of calls that peft makes
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


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
