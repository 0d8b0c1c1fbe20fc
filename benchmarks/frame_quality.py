"""Quantum-PEFT against LoRA on real models and data: a table and a plot of quality against trained numbers.

    python benchmarks/frame_quality.py text MODEL_FOLDER WIKITEXT_FOLDER
    python benchmarks/frame_quality.py classify MODEL_FOLDER GLUE_TASK_FOLDER

Every row is a full run of `qpeft train` for each seed; finished runs are not repeated. Learning rates are those that
short searches on the text picked, one for each family. The table and the plot are written to the output folder.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import mean, median, stdev
from typing import Annotated, Any

import matplotlib
import typer
from quality import Rows, run, slug, wikitext_protocol, with_adapter
from rich.console import Console
from rich.progress import track

from qpeft.files import write_text
from qpeft.training.config import DataOptions, ModelOptions, RunOptions, TrainConfig, TrainingOptions

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # after the choice of its backend

app = typer.Typer(help=__doc__, add_completion=False)
console = Console()
COLORS = {"LoRA": "#000000", "Pauli": "#0072b2", "Taylor": "#d55e00"}  # of Okabe and Ito
MARKERS = {"LoRA": "s", "Pauli": "o", "Taylor": "^"}
TAYLOR = {"method": "quantum-peft", "parametrization": "taylor"}

ROWS: Rows = {
    **{f"LoRA r={r}": ({"method": "lora", "rank": r}, rate) for r, rate in {1: 0.3, 2: 0.3, 4: 0.03}.items()},
    **{
        f"Pauli K={k} L={reps}": ({"method": "quantum-peft", "rank": k, "reps": reps}, 0.1)
        for k, layers in {1: (1, 2, 4), 3: (1, 2, 4), 8: (1, 2, 4, 16, 64)}.items() for reps in layers
    },
    **{
        f"Taylor K={k} K'={own}": ({**TAYLOR, "rank": k, "intrinsic_rank": own}, 0.03)
        for k, own in ((1, 1), (3, 1), (3, 3), (8, 1), (8, 8))
    },
}  # fmt: skip
Seeds = Annotated[int, typer.Option(help="runs of each row; seeds count up")]
Targets = Annotated[str | None, typer.Option(help="layers to adapt, e.g. all-linear (the task's default)")]


def study(title: str, rows: Rows, base: TrainConfig, output: Path, seeds: int, only: str | None) -> None:
    """Runs every row with every seed; writes table and plot as it goes."""
    lines, points = [], {}
    for label, (settings, rate) in track(rows.items(), description=title, console=console):
        if only is not None and not label.startswith(tuple(only.split(","))):
            continue
        given = with_adapter(base, settings, rate)
        config = replace(given, adapter=replace(given.adapter, targets=base.adapter.targets))
        found = [run(config, output / slug(label), base.training.seed + seed) for seed in range(seeds)]
        if not lines:
            lines = _head(found[0])
        counts, values = found[0]["parameters"], [_primary(metrics) for metrics in found]
        trained = counts["trained"] - counts["head"]
        spread = stdev(values) if seeds > 1 else 0.0
        points[label] = (trained, mean(values), spread)
        lines.append(
            f"| {label} | {trained:,} | {trained / counts['lora_rank_1']:.1%} | {mean(values):.3f} ± {spread:.3f} | "
            f"{1000 * median(metrics['seconds_per_step'] for metrics in found):.0f} |"
        )
        write_text(output / "table.md", "\n".join(lines) + "\n")
    _plot(title, points, _name(found[0]), _primary(found[0], "before"), output / "quality.png")
    print("\n".join(lines))


def _name(metrics: dict[str, Any]) -> str:
    return str(metrics["primary"] or "bits_per_byte")


def _primary(metrics: dict[str, Any], when: str = "after") -> float:
    return float(metrics[when][_name(metrics)])


def _head(metrics: dict[str, Any]) -> list[str]:
    text = f"{_name(metrics).replace('_', ' ')}, {_primary(metrics, 'before'):.3f} before"
    return [f"| method | trained | of LoRA r=1 | {text} | ms/step |", "| --- | ---: | ---: | ---: | ---: |"]


def _plot(title: str, points: dict[str, tuple[int, float, float]], metric: str, before: float, path: Path) -> None:
    figure, axes = plt.subplots(figsize=(6.4, 4.0), constrained_layout=True)
    for family, color in COLORS.items():
        own = sorted(point for label, point in points.items() if label.startswith(family))
        if own:
            trained, values, spread = zip(*own, strict=True)
            axes.errorbar(
                trained, values, spread, color=color, marker=MARKERS[family], capsize=2,
                linestyle="--" if family == "LoRA" else "",
                label=family if family == "LoRA" else f"Quantum-PEFT, {family}",
            )  # fmt: skip
    axes.axhline(before, color="#999999", linewidth=0.8)
    axes.text(0.99, before, "before", color="#666666", ha="right", va="top", transform=axes.get_yaxis_transform())
    axes.set(xscale="log", xlabel="trained numbers of the adapter", ylabel=metric.replace("_", " "), title=title)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


@app.command()
def text(
    model: str, wikitext: str, output: Path = Path("runs/frames-text"), seeds: Seeds = 3, seed: int = 0,
    targets: Targets = None, only: str | None = None,
) -> None:  # fmt: skip
    """The protocol of `quality.py head`: 250 steps of 4 x 256 tokens on the output head, alpha 32 (LoRA 2 r)."""
    base = _targeted(wikitext_protocol(model, wikitext, seed), targets)
    study(f"{Path(model).name} on WikiText-2", ROWS, base, output, seeds, only)


@app.command()
def classify(
    model: str, task: str, output: Path = Path("runs/frames-classify"), seeds: Seeds = 3, seed: int = 0,
    targets: Targets = "q_proj,v_proj,up_proj,down_proj", only: str | None = None,
) -> None:  # fmt: skip
    """300 steps of 16 examples, with a fresh head that trains beside the adapter, at a third of the methods' rates."""
    base = TrainConfig(
        model=ModelOptions(model=model), data=DataOptions(data=task, task="classification", context=128),
        training=TrainingOptions(steps=300, batch_size=16, seed=seed), run=RunOptions(),
    )  # fmt: skip
    # The rates that LoRA of ranks 1 and 2 takes on an output head are too high for inner layers.
    rows = {label: (row, (0.03 if label.startswith("LoRA") else rate) / 3) for label, (row, rate) in ROWS.items()}
    study(f"{Path(model).name} on {Path(task).name}", rows, _targeted(base, targets), output, seeds, only)


def _targeted(base: TrainConfig, targets: str | None) -> TrainConfig:
    return base if targets is None else replace(base, adapter=replace(base.adapter, targets=targets.split(",")))


if __name__ == "__main__":
    app()
