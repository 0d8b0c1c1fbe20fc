"""The commands about adapters that train nothing: `qpeft methods` and `qpeft count`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE, SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from qpeft.options import build
from qpeft.terminal import quiet
from qpeft.training.adapter_options import CountConfig

if TYPE_CHECKING:
    from qpeft.training.frame_counts import FrameCounts

console = Console()


def methods() -> None:
    """List the values of --method: what trains, how many numbers, what it merges into and exports to.

    Counts are for each target layer (in x out); r is --rank, b --bottleneck or --block-size, T --virtual-tokens or
    --prefix-length, n --frequencies, H the width at the adapter. qpeft count --method NAME counts on a model.
    """
    from qpeft.adapters.export import FORMS
    from qpeft.adapters.method_table import METHODS

    table = Table(box=SIMPLE, show_lines=True, pad_edge=False)
    table.add_column("method", width=max(map(len, METHODS)))
    for column in ("trains", "count", "merges"):
        table.add_column(column)
    table.add_column("export", no_wrap=True)
    for name, method in METHODS.items():
        table.add_row(
            Text.assemble((name, "bold"), f"\n{method.source}"), method.trains, method.count,
            "yes" if method.merges else "no", FORMS[method.export].title,
        )  # fmt: skip
    console.print(table)
    console.print(
        "For the methods whose name begins with qpa, a circuit's angles and a small network train, and generate the "
        "rest; the network's widths follow from --chunk-size or --budget.", highlight=False,
    )  # fmt: skip


def count(
    *,
    model: Annotated[str, typer.Option(help="model id on the hub, a folder, or embedded; only its config is read")],
    chunk_sizes: Annotated[
        list[int] | None, typer.Option(help="chunk sizes to list; may be repeated (a usual range)", show_default=False)
    ] = None,
    **flags: Any,
) -> None:
    """Count what an adapter trains, before training anything.

    For qpa also qubits and chunks; for quantum-peft the paper's formula, and each way in which its tables count.

    Example: qpeft count --model embedded --method qpa --rank 4
    """
    from qpeft.adapters.method_table import METHODS
    from qpeft.training.counting import count as run

    config = build(CountConfig, {}, flags)
    METHODS[config.adapter.method].refuse_unused(config.settings, CountConfig().settings)
    quiet()
    found = run(model, config, chunk_sizes or ())
    say = console.print
    place, compared = f"{len(found.targets)} layer(s)", "these layers"
    if found.is_prefix:
        place, compared = "every layer's keys and values", f"{', '.join(found.targets)} alone"
    share = found.trained / found.model
    say(
        f"{config.adapter.method} on {place} of {model} trains {found.trained:,} numbers, "
        f"{f'{share:.2%}' if share >= 1e-4 else 'under 0.01%'} of the model's {found.model:,}. LoRA r=1 on {compared} "
        f"trains {found.lora_rank_1:,}.", highlight=False, markup=False,
    )  # fmt: skip
    if found.frozen:
        say(f"Beside them it needs {found.frozen:,} frozen numbers, rebuilt from the seed.", highlight=False)
    if METHODS[config.adapter.method].generates and not found.is_prefix and found.trained > found.lora_rank_1:
        say("LoRA of rank 1 is the smaller adapter here.", highlight=False)
    if found.frames is not None:
        _say_frames(found.frames)
    if found.generated is None:
        return
    table = Table(title=f"{found.generated:,} generated numbers", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in ("chunk size", "chunks", "qubits", "angles", "trained", "of generated", "of LoRA r=1"):
        table.add_column(column, justify="right")
    for choice in found.choices:
        spec = choice.largest
        table.add_row(
            f"{choice.chunk_size:,}", f"{sum(one.num_chunks for one in choice.specs):,}", str(spec.num_qubits),
            f"{sum(one.circuit.num_parameters for one in choice.specs):,}", f"{choice.num_parameters:,}",
            f"{choice.num_parameters / found.generated:.1%}", f"{choice.num_parameters / found.lora_rank_1:.1%}",
        )  # fmt: skip
    say(table)
    generators = len(found.choices[0].specs)
    if generators > 1:
        say(f"{generators} generators; qubits are those of the largest.", highlight=False)
    say("Above 100% of LoRA r=1, LoRA of rank 1 is the smaller adapter.", highlight=False)


def _say_frames(frames: FrameCounts) -> None:
    """The formula of what trains, then every convention of counting, beside LoRA."""
    say = partial(console.print, highlight=False)
    if frames.name:
        say(f"\nNumbers P(N) of a frame of N rows:\n  {frames.formula}")
        for line in frames.working():
            say(f"  {line}")
    say(f"\nWays to count these layers at K = {frames.rank}, K' = {frames.intrinsic_rank}, L = {frames.reps}")
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("  convention", no_wrap=True)
    table.add_column("counts", no_wrap=True)
    table.add_column("numbers", justify="right")
    table.add_column("needed by")
    for rows in (frames.conventions, frames.others):
        for row in rows:
            name, style = (f"> {row.name}", "bold") if row.trains else (f"  {row.name}", None)
            table.add_row(name, row.counts, f"{row.numbers:,}", row.published, style=style)
        table.add_section()
    say(table)
    marked = "> is what trains here." if frames.name else "The paper has no formula for this circuit."
    say(f"{marked} Tables and figures: arXiv 2503.05431.")
