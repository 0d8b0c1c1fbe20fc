"""Methods against each other and QPA against its classical controls, on a real model and text, as tables.

Three protocols, each with the learning rates a validation search picked (see the docstring of each):

    python benchmarks/quality.py compression MODEL_FOLDER TRAIN.txt TEST.txt
    python benchmarks/quality.py head MODEL_FOLDER WIKITEXT_FOLDER
    python benchmarks/quality.py carriers MODEL_FOLDER WIKITEXT_FOLDER

Every row is a full run of `qpeft train`; finished runs are not repeated. The table is printed and written to
`OUTPUT/table.md`.
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from statistics import mean, median, stdev
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track

from qpeft.files import write_text
from qpeft.options import build
from qpeft.training.adapter_options import CountConfig
from qpeft.training.config import DataOptions, ModelOptions, RunOptions, TrainConfig, TrainingOptions
from qpeft.training.finetune import train

Rows = dict[str, tuple[dict[str, Any], float]]  # label to (settings of the adapter, learning rate)
app = typer.Typer(help=__doc__, add_completion=False)
console = Console()

COMPRESSION: Rows = {
    "LoRA r=1": ({"method": "lora", "rank": 1}, 0.3),
    "LoRA r=4": ({"method": "lora"}, 0.03),
    "QPA, hidden 32, chunk 256": ({"hidden": [32], "chunk_size": 256}, 0.03),
    "QPA, hidden 32, chunk 1024": ({"hidden": [32], "chunk_size": 1024}, 0.03),
    "the same, basis bits only": ({"hidden": [32], "chunk_size": 1024, "source": "none"}, 0.03),
    "the same, a free vector for the circuit": ({"hidden": [32], "chunk_size": 1024, "source": "free"}, 0.03),
}
HEAD: Rows = {
    "LoRA r=1": ({"method": "lora", "rank": 1}, 0.3),
    "LoRA r=4": ({"method": "lora"}, 0.03),
    "QPA, hidden 16, chunk 128": ({"chunk_size": 128}, 0.03),
    "the same, basis bits only": ({"chunk_size": 128, "source": "none"}, 0.03),
    "QPA, the paper's widths, affine, chunk 128": (
        {"chunk_size": 128, "hidden": [32, 64, 128, 128, 64, 32, 32], "activation": "none"},
        0.01,
    ),
}
BUDGETS = (600, 2400, 4600)


def _rows(name: str, key: str, rates: dict[int, float], **settings: Any) -> Rows:
    """One method at several sizes, each with its learning rate."""
    return {f"{name}{size}": ({**settings, key: size}, rate) for size, rate in rates.items()}


CARRIERS: Rows = {
    **_rows("LoRA r=", "rank", {1: 0.3, 2: 0.3, 4: 0.03}, method="lora"),
    **_rows("QPA-LoRA, ", "budget", dict.fromkeys(BUDGETS, 0.03), method="qpa"),
    **_rows("DoRA r=", "rank", {1: 0.3, 2: 0.1, 4: 0.1}, method="dora"),
    **_rows("QPA-DoRA, ", "budget", dict.fromkeys(BUDGETS, 0.03), method="qpa-dora"),
    **_rows("prefix T=", "virtual_tokens", dict.fromkeys((4, 16, 32), 0.3), method="prefix"),
    **_rows("QPA-prefix T=32, ", "budget", dict.fromkeys(BUDGETS, 0.1), method="qpa-prefix", virtual_tokens=32),
    **_rows("FFA b=", "bottleneck", dict.fromkeys((4, 16, 32), 0.01), method="ffa"),
    **_rows("QPA-FFA b=32, ", "budget", dict.fromkeys(BUDGETS, 0.03), method="qpa-ffa", bottleneck=32),
    "additive prefix": ({"method": "additive-prefix", "prefix_length": 256}, 0.01),
    **_rows("QPA-additive prefix, ", "budget", {2400: 0.01}, method="qpa-additive-prefix", prefix_length=256),
}


def with_adapter(base: TrainConfig, settings: dict[str, Any], learning_rate: float | None) -> TrainConfig:
    """The run's settings with those of a row."""
    sections = build(CountConfig, {}, settings)
    return replace(
        base, training=replace(base.training, learning_rate=learning_rate),
        **{section.name: getattr(sections, section.name) for section in fields(sections)},
    )  # fmt: skip


def table(name: str, rows: Rows, base: TrainConfig, output: Path, seeds: int = 1) -> None:
    """Runs every row with every seed and writes the table."""
    lines = [
        "| method | trained | of LoRA r=1 | qubits | bits/byte before | after | ms/step |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for label, (settings, learning_rate) in track(rows.items(), description=name, console=console):
        config = with_adapter(base, settings, learning_rate)
        found = [run(config, output / slug(label), base.training.seed + count) for count in range(seeds)]
        counts, generator = found[0]["parameters"], found[0]["generator"]
        after = [metrics["after"]["bits_per_byte"] for metrics in found]
        spread = f" ± {stdev(after):.3f}" if seeds > 1 else ""
        lines.append(
            f"| {label} | {counts['trained']:,} | {counts['trained'] / counts['lora_rank_1']:.0%} | "
            f"{generator['qubits'] if generator and generator['source'] == 'circuit' else ''} | "
            f"{found[0]['before']['bits_per_byte']:.3f} | {mean(after):.3f}{spread} | "
            f"{1000 * median(metrics['seconds_per_step'] for metrics in found):.0f} |"
        )
        write_text(output / "table.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


def run(config: TrainConfig, folder: Path, seed: int) -> dict[str, Any]:
    """The metrics of a row's run with one seed, from its folder if it is finished."""
    folder = folder / f"seed{seed}"
    options = RunOptions(output=str(folder), resume=(folder / "run.json").exists())
    return train(replace(config, training=replace(config.training, seed=seed), run=options)).metrics


def slug(label: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in label)


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


def wikitext_protocol(model: str, wikitext: str, seed: int) -> TrainConfig:
    """250 steps of 4 x 256 tokens on cleaned WikiText-2."""
    data = DataOptions(
        data=wikitext, clean="wikitext", by_line=True, max_train_chars=1_500_000, max_train_chunks=1300,
        max_test_chars=120_000,
    )  # fmt: skip
    return TrainConfig(
        model=ModelOptions(model=model), data=data, training=TrainingOptions(steps=250, seed=seed), run=RunOptions()
    )


@app.command()
def head(model: str, wikitext: str, output: Folder = Path("runs/head"), seed: Seed = 0) -> None:
    """A small head on WikiText-2: 250 steps of 4 x 256 tokens, alpha / rank = 2, linear decay, clipping at 1."""
    table("head", HEAD, wikitext_protocol(model, wikitext, seed), output)


@app.command()
def carriers(
    model: str, wikitext: str, output: Folder = Path("runs/carriers"), seed: Seed = 0,
    seeds: Annotated[int, typer.Option(help="runs of each row; seeds count up")] = 3,
) -> None:  # fmt: skip
    """LoRA, DoRA, prefix and feed-forward adapters and what QPA makes of each, under the protocol of `head`."""
    table("carriers", CARRIERS, wikitext_protocol(model, wikitext, seed), output, seeds)


if __name__ == "__main__":
    app()
