"""`qpeft demo`: the main job on what ships in the package."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from qpeft.training import embedded
from qpeft.training.config import AdapterOptions, DataOptions, ModelOptions, RunOptions, TrainConfig, TrainingOptions
from qpeft.training.finetune import Result, prepare, train
from qpeft.training.plots import loss_plot

PROMPT = 'The "with" statement is used to'
METHODS = ("qpa", "lora")


@dataclass(frozen=True)
class Demo:
    """The runs of the demo by method, and a line generated before and after QPA."""

    results: dict[str, Result]
    line_before: str
    line_after: str
    plot: Path


def demo(output: Path, steps: int = 300, overwrite: bool = False, console: Console | None = None) -> Demo:
    """Adapts the embedded model's output head to the Python language reference, with QPA and with LoRA.

    Args:
        output: Folder for both runs.
        steps: Optimiser steps of each.
        overwrite: Replace an earlier demo there.
        console: Where progress shows.
    """
    base = TrainConfig(
        model=ModelOptions(model=embedded.NAME), data=DataOptions(data=embedded.NAME),
        training=TrainingOptions(steps=steps), run=RunOptions(overwrite=overwrite),
    )  # fmt: skip
    results, lines = {}, ["", ""]
    for method in METHODS:
        run = replace(base.run, output=str(output / method))
        config = replace(base, adapter=AdapterOptions(method=method), run=run)
        prepared = prepare(config)
        if method == "qpa":
            lines[0] = complete(prepared.model, prepared.tokenizer, PROMPT)
        results[method] = train(config, console, prepared)
        if method == "qpa":
            lines[1] = complete(results[method].model, prepared.tokenizer, PROMPT)
    plot = output / "loss.png"
    loss_plot(
        plot, {name: result.curve for name, result in results.items()},
        results["qpa"].metrics["before"]["nats_per_token"],
        {name: result.metrics["after"]["nats_per_token"] for name, result in results.items()},
    )  # fmt: skip
    return Demo(results, lines[0], lines[1], plot)


def complete(model: nn.Module | None, tokenizer: Any, prompt: str, tokens: int = 40) -> str:
    """A prompt with its greedy continuation on one line."""
    assert model is not None
    model.eval()
    inputs = tokenizer(prompt, return_tensors="pt").to(next(model.parameters()).device)
    with torch.no_grad():
        ids = model.generate(  # type: ignore[operator]
            **inputs, max_new_tokens=tokens, do_sample=False, pad_token_id=tokenizer.eos_token_id,
            repetition_penalty=1.2,
        )  # fmt: skip
    text: str = tokenizer.decode(ids[0], skip_special_tokens=True)
    return " ".join(text.split())
