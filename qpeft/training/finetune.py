"""The main job: adapt a model for a task, report, save and export."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from rich.console import Console
from transformers import set_seed

from qpeft.adapters.attach import attach
from qpeft.adapters.card import write_base_section
from qpeft.adapters.export import export_adapter, forms
from qpeft.adapters.method_table import METHODS
from qpeft.adapters.peft_internals import bank_of, count_fully_trained
from qpeft.adapters.regenerate import EXACT, LAST_SAMPLE, deviation, with_exact_weights
from qpeft.errors import ConfigError, RunError
from qpeft.files import staged_folder, write_json, write_text
from qpeft.training.config import TrainConfig
from qpeft.training.facts import frame_facts, generator_facts, learning_rate, parameter_counts, resolved_settings
from qpeft.training.fitting import fit, new_trainer
from qpeft.training.heads import draw_fresh, train_whole
from qpeft.training.models import num_positions
from qpeft.training.plots import loss_plot
from qpeft.training.progress import ProgressBar, StepTimer, new_display
from qpeft.training.ranks import is_main, wait_for_all
from qpeft.training.report import markdown_report
from qpeft.training.runs import RunFolder
from qpeft.training.tasks import Prepared, task_for


@dataclass(frozen=True)
class Result:
    """What a run gave; `metrics.json` holds the same.

    Attributes:
        folder: The run's folder.
        metrics: Plain data: before, after, parameters, seconds a step (None if not known), export.
        curve: (step, training loss), in nats per token or as the task has it.
        model: The adapted model, or None if the run had been finished before.
    """

    folder: Path
    metrics: dict[str, Any]
    curve: list[tuple[int, float]]
    model: PeftModel | None


def prepare(config: TrainConfig) -> Prepared:
    """Loads model, tokeniser and data.

    Raises:
        ConfigError: Anything that cannot be loaded or does not fit together.
    """
    return task_for(config).prepare()


def add_adapter(prepared: Prepared, config: TrainConfig) -> PeftModel:
    """The prepared model with the adapter that `config` asks for."""
    adapter = METHODS[config.adapter.method].peft_config(config.settings, task_for(config).peft_task)
    if adapter.is_prompt_learning:
        _check_positions(prepared.model, config.data.context, adapter.num_virtual_tokens)
    set_seed(config.training.seed)
    draw_fresh(prepared.model, prepared.fresh)
    train_whole(adapter, prepared.fresh)
    return attach(prepared.model, adapter)


def _check_positions(model: Any, context: int, virtual_tokens: int) -> None:
    """A prefix takes positions too."""
    positions = num_positions(model.config)
    if positions is not None and context + virtual_tokens > positions:
        left = positions - virtual_tokens
        remedy = f"--context to {left}" if left > 1 else "--virtual-tokens"
        raise ConfigError(
            f"context {context} and {virtual_tokens} virtual tokens are more than the model's {positions} positions; "
            f"lower {remedy}"
        )


def _try_engine(model: PeftModel) -> None:
    """Generates the weights once: an engine that cannot run the circuit says so before the run's folder exists."""
    bank = bank_of(model)
    if bank is not None:
        with torch.no_grad():
            bank()


def _measure_base(model: PeftModel, prepared: Prepared, config: TrainConfig) -> dict[str, Any]:
    """The metrics of the model as it was, with a fresh head as it was drawn; the adapter must not have been trained."""
    task = task_for(config)
    if model.active_peft_config.is_prompt_learning:  # it leaves the base model as it is; not every one can be disabled
        return task.measure(model.get_base_model(), prepared)
    with model.disable_adapter():
        return task.measure(model, prepared)


def train(
    config: TrainConfig, console: Console | None = None, prepared: Prepared | None = None,
    progress: ProgressBar | None = None,
) -> Result:  # fmt: skip
    """Runs `config` and writes adapter, export, metrics, plot and report into the output folder.

    Args:
        config: The settings.
        console: Where progress shows; nothing shows if None.
        prepared: What `prepare(config)` gave, if that was done already.
        progress: Shows the steps; a display of its own on `console` if None.

    Raises:
        QpeftError: Input that cannot be worked with, before any step is taken.
        RunError: Training diverged; nothing is saved. Or, on the other ranks, the first could not write the results.
    """
    console = console or Console(quiet=True)
    folder = RunFolder(output_folder(config), config)
    if folder.finished:
        console.print(f"The run in {folder.path} is finished; nothing is left to do.")
        return Result(folder.path, folder.manifest["metrics"], folder.manifest["curve"], None)
    METHODS[config.adapter.method].check(config.settings, task_for(config).peft_task)
    task, prepared = task_for(config), prepared or prepare(config)
    model = add_adapter(prepared, config)
    _try_engine(model)
    for note in prepared.notes:
        console.print(note, highlight=False, markup=False)
    folder.begin()
    folder.save(resolved=resolved_settings(model, config) | prepared.resolved)
    before = folder.manifest.get("before")
    if before is None or (config.run.paper_metric and "paper_perplexity" not in before):
        before = _measure_base(model, prepared, config)
        folder.save(before=before)
    timer = StepTimer()
    progress = progress or ProgressBar(f"{config.adapter.method} on {config.model.model}", new_display(console))
    callbacks = [timer, progress, *METHODS[config.adapter.method].callbacks(model)]
    trainer = new_trainer(model, prepared, config, folder.checkpoints, callbacks)
    checkpoint = folder.last_checkpoint() if config.run.resume else None
    try:
        curve = fit(trainer, model, config.training.steps, checkpoint)
    finally:
        progress.close()
    if timer.median is not None:
        folder.save(seconds_per_step=timer.median)  # a run that is interrupted from here on takes no step when resumed
    after = task.measure(model, prepared)
    loss = after[task.loss(after).key]
    if not math.isfinite(loss):
        raise RunError(
            f"training diverged: the adapted model's loss is {loss}. Nothing was saved; lower "
            f"--learning-rate (it was {learning_rate(config):g}) and run again with --overwrite"
        )
    if not is_main():
        folder.await_results()
        return Result(folder.path, folder.manifest["metrics"], folder.manifest["curve"], model)
    try:
        metrics = _finish(folder, config, model, prepared, before, after, curve)
    finally:
        wait_for_all()  # also if this failed: the other ranks must not wait for ever
    return Result(folder.path, metrics, curve, model)


def _finish(
    folder: RunFolder, config: TrainConfig, model: PeftModel, prepared: Prepared, before: dict[str, Any],
    after: dict[str, Any], curve: list[tuple[int, float]],
) -> dict[str, Any]:  # fmt: skip
    """Writes all that a run leaves; gives its metrics."""
    save_adapter(model, folder.path / "adapter")
    exported = _export(model, folder.path)
    loading = task_for(config).loading(prepared.resolved)
    for name in ("adapter", exported["form"]):
        if loading and name is not None:
            write_base_section(folder.path / name, loading)
    metrics = {
        "task": config.data.task, "primary": prepared.primary, "resolved": prepared.resolved,
        "method": config.adapter.method, "before": before, "after": after,
        "parameters": {**parameter_counts(model, config), "head": count_fully_trained(model)},
        "seconds_per_step": folder.manifest.get("seconds_per_step"), "learning_rate": learning_rate(config),
        "steps": config.training.steps,
        "export": exported, "generator": generator_facts(model),
        "frames": frame_facts(model),
        "against_exact": _against_exact(model, prepared, config, after),
    }  # fmt: skip
    _write_results(folder, config, metrics, curve)
    return metrics


def output_folder(config: TrainConfig) -> Path:
    """`--output`, or a folder below runs/ named after method and model."""
    if config.run.output is not None:
        return Path(config.run.output)
    return Path("runs") / f"{config.adapter.method}-{Path(config.model.model).name}"


def _against_exact(
    model: PeftModel, prepared: Prepared, config: TrainConfig, after: dict[str, Any]
) -> dict[str, Any] | None:
    """How far the engine is from exact simulation at the final angles, and the metrics with exact weights."""
    found = deviation(model)
    if found is None:
        return None
    if found.weights == LAST_SAMPLE:
        after = task_for(config).measure(with_exact_weights(model), prepared)
    return {**asdict(found), "after": after}


def save_adapter(model: PeftModel, folder: Path) -> None:
    """`save_pretrained`, all or nothing, without base weights."""
    with staged_folder(folder) as staging:
        model.save_pretrained(staging, save_embedding_layers=False)


def _export(model: PeftModel, folder: Path) -> dict[str, Any]:
    """Exports in the form that suits the adapter, unless that is the whole model; says which weights were measured."""
    form = next((form for form in forms(model) if form != "merged"), None)
    if form is None:
        differs = deviation(model)
        return {"form": None, "weights": EXACT if differs is None else differs.weights}
    exported = export_adapter(model, folder / form, form)
    return {
        "form": form, "parameters": exported.num_parameters, "max_difference": exported.max_difference,
        "weights": exported.weights,
    }  # fmt: skip


def _write_results(
    folder: RunFolder, config: TrainConfig, metrics: dict[str, Any], curve: list[tuple[int, float]]
) -> None:
    write_json(folder.path / "metrics.json", metrics)
    method = config.adapter.method
    loss = task_for(config).loss(metrics["after"])
    loss_plot(
        [folder.path / "loss.png"], {method: curve}, metrics["before"][loss.key], {method: metrics["after"][loss.key]},
        loss.title,
    )  # fmt: skip
    write_text(folder.path / "report.md", markdown_report(config, metrics))
    folder.save(metrics=metrics, curve=curve)
    folder.finish()
