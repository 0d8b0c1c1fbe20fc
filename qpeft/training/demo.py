"""`qpeft demo`: the main job on what ships in the package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from qpeft.training import embedded
from qpeft.training.adapter_options import AdapterOptions
from qpeft.training.config import DataOptions, ModelOptions, RunOptions, TrainConfig, TrainingOptions
from qpeft.training.finetune import Result, prepare, train
from qpeft.training.plots import loss_plot
from qpeft.training.runs import MANIFEST
from qpeft.training.tasks import Task, task_for
from qpeft.training.tasks.language_modelling import LOSS

PROMPT = 'The "with" statement is used to'
RUNS = {
    "QPA": AdapterOptions(method="qpa"),
    "LoRA r=1": AdapterOptions(method="lora", rank=1),
    "LoRA r=4": AdapterOptions(method="lora"),
}
LEARNING_RATE = 0.03  # of 0.01, 0.03 and 0.1 the best for QPA; LoRA gains up to 0.006 bits a byte by 0.01


@dataclass(frozen=True)
class Demo:
    """The runs of the demo by name, their task, and a line generated before and after QPA."""

    task: Task
    results: dict[str, Result]
    line_before: str
    line_after: str
    plot: Path


def demo(output: Path, steps: int = 200, overwrite: bool = False, console: Console | None = None) -> Demo:
    """Adapts the embedded model's output head to the Python language reference, with QPA and with LoRA.

    Args:
        output: Folder for the runs.
        steps: Optimiser steps of each.
        overwrite: Replace an earlier demo there.
        console: Where progress shows.
    """
    results, lines = {}, []
    for name, adapter in RUNS.items():
        folder = output / name.lower().replace(" ", "-").replace("=", "")
        config = TrainConfig(
            model=ModelOptions(model=embedded.NAME), data=DataOptions(data=embedded.NAME), adapter=adapter,
            training=TrainingOptions(steps=steps, learning_rate=LEARNING_RATE),
            run=RunOptions(output=str(folder), overwrite=overwrite and _is_demo(folder)),
        )  # fmt: skip
        prepared = prepare(config)
        result = results[name] = train(config, console, prepared)
        if name == "QPA" and result.model is not None:
            with result.model.disable_adapter():
                lines.append(complete(result.model, prepared.tokenizer, PROMPT))
            lines.append(complete(result.model, prepared.tokenizer, PROMPT))
    plot = output / "loss.png"
    loss_plot(
        [plot], {name: result.curve for name, result in results.items()},
        results["QPA"].metrics["before"]["nats_per_token"],
        {name: result.metrics["after"]["nats_per_token"] for name, result in results.items()}, LOSS.title,
    )  # fmt: skip
    return Demo(task_for(config), results, lines[0], lines[1], plot)


def _is_demo(folder: Path) -> bool:
    """Whether a folder holds a run on the embedded text: only those may be replaced."""
    file = folder / MANIFEST
    return file.is_file() and f'"data": "{embedded.NAME}"' in file.read_text(encoding="utf8")


def complete(model: nn.Module, tokenizer: Any, prompt: str, tokens: int = 40) -> str:
    """A prompt with its greedy continuation on one line."""
    model.eval()
    inputs = tokenizer(prompt, return_tensors="pt").to(next(model.parameters()).device)
    with torch.no_grad():
        ids = model.generate(  # type: ignore[operator]
            **inputs, max_new_tokens=tokens, do_sample=False, pad_token_id=tokenizer.eos_token_id,
            repetition_penalty=1.2,
        )  # fmt: skip
    text: str = tokenizer.decode(ids[0], skip_special_tokens=True)
    return " ".join(text.split())
