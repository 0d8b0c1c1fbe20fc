"""QPA against LoRA and against its classical controls on a real model and text, as one table.

Two protocols, each with the learning rates a validation search picked (see the docstring of each):

    python benchmarks/quality.py compression MODEL_FOLDER TRAIN.txt TEST.txt
    python benchmarks/quality.py head MODEL_FOLDER WIKITEXT_FOLDER

Every row is a full run of `qpeft train`; finished rows are not repeated. The table is printed and written to
`OUTPUT/table.md`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from qpeft.files import write_text
from qpeft.training.config import (
    AdapterOptions,
    DataOptions,
    ModelOptions,
    RunOptions,
    TrainConfig,
    TrainingOptions,
)
from qpeft.training.finetune import train

Rows = dict[str, tuple[AdapterOptions, float]]
app = typer.Typer(help=__doc__, add_completion=False)
console = Console()


def qpa(**settings: object) -> AdapterOptions:
    return AdapterOptions(method="qpa", **settings)  # type: ignore[arg-type]


COMPRESSION: Rows = {
    "LoRA r=1": (AdapterOptions(method="lora", rank=1), 0.3),
    "LoRA r=4": (AdapterOptions(method="lora", rank=4), 0.03),
    "QPA, hidden 32, chunk 256": (qpa(hidden=[32], chunk_size=256), 0.03),
    "QPA, hidden 32, chunk 1024": (qpa(hidden=[32], chunk_size=1024), 0.03),
    "the same, basis bits only": (qpa(hidden=[32], chunk_size=1024, source="none"), 0.03),
    "the same, a free vector for the circuit": (qpa(hidden=[32], chunk_size=1024, source="free"), 0.03),
}
HEAD: Rows = {
    "LoRA r=1": (AdapterOptions(method="lora", rank=1), 0.3),
    "LoRA r=4": (AdapterOptions(method="lora", rank=4), 0.03),
    "QPA, hidden 16, chunk 128": (qpa(chunk_size=128), 0.03),
    "the same, basis bits only": (qpa(chunk_size=128, source="none"), 0.03),
    "QPA, the paper's widths, affine, chunk 128": (
        qpa(chunk_size=128, hidden=[32, 64, 128, 128, 64, 32, 32], activation="none"),
        0.01,
    ),
}


def table(name: str, rows: Rows, base: TrainConfig, output: Path) -> None:
    """Runs every row and writes the table."""
    lines = [
        "| method | trained | of LoRA r=1 | qubits | bits/byte before | after | ms/step |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for label, (adapter, learning_rate) in track(rows.items(), description=name, console=console):
        folder = output / label.replace(" ", "_").replace(",", "").replace("'", "").replace("=", "")
        config = replace(
            base, adapter=adapter, training=replace(base.training, learning_rate=learning_rate),
            run=RunOptions(output=str(folder), resume=(folder / "run.json").exists()),
        )  # fmt: skip
        found = train(config).metrics
        counts, generator = found["parameters"], found["generator"]
        lines.append(
            f"| {label} | {counts['trained']:,} | {counts['trained'] / counts['lora_rank_1']:.0%} | "
            f"{generator['qubits'] if generator and generator['source'] == 'circuit' else ''} | "
            f"{found['before']['bits_per_byte']:.3f} | {found['after']['bits_per_byte']:.3f} | "
            f"{1000 * found['seconds_per_step']:.0f} |"
        )
        write_text(output / "table.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


Folder = Annotated[Path, typer.Option(help="folder for the runs and the table")]
Seed = Annotated[int, typer.Option(help="seed of every run")]


@app.command()
def compression(
    model: str, train_text: str, test_text: str, output: Folder = Path("runs/compression"), seed: Seed = 0
) -> None:
    """A GPT-2-vocabulary head: 120 steps of 4 x 256 tokens, alpha / rank = 2, linear decay, clipping at 1."""
    data = DataOptions(
        data=train_text, test_data=test_text, clean="stories", max_train_chars=1_500_000,
        max_train_chunks=1300, max_test_chars=62_900,
    )  # fmt: skip
    base = TrainConfig(
        model=ModelOptions(model=model), data=data, training=TrainingOptions(steps=120, seed=seed),
        run=RunOptions(),
    )  # fmt: skip
    table("compression", COMPRESSION, base, output)


@app.command()
def head(model: str, wikitext: str, output: Folder = Path("runs/head"), seed: Seed = 0) -> None:
    """A small head on WikiText-2: 250 steps of 4 x 256 tokens, alpha / rank = 2, linear decay, clipping at 1."""
    data = DataOptions(
        data=wikitext, clean="wikitext", by_line=True, max_train_chars=1_500_000, max_train_chunks=1300,
        max_test_chars=120_000,
    )  # fmt: skip
    base = TrainConfig(
        model=ModelOptions(model=model), data=data, training=TrainingOptions(steps=250, seed=seed), run=RunOptions()
    )
    table("head", HEAD, base, output)


if __name__ == "__main__":
    app()
