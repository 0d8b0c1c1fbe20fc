"""The main job: adapt a language model to a text, report, save and export."""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel, get_peft_model
from rich.console import Console
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments, set_seed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback

from qpeft.adapters import Exported, QPAConfig, export_lora
from qpeft.adapters.methods import check_settings, peft_config
from qpeft.adapters.peft_internals import resolve_targets
from qpeft.adapters.regenerate import LAST_SAMPLE, deviation, with_exact_weights
from qpeft.errors import ConfigError, RunError
from qpeft.files import staged_folder, write_json, write_text
from qpeft.training.config import TrainConfig
from qpeft.training.data import IGNORED, TokenChunks, load_corpus, tokenise
from qpeft.training.facts import generator_facts, learning_rate, parameter_counts, resolved_settings
from qpeft.training.metrics import TextMetrics, evaluate, paper_perplexity
from qpeft.training.models import load_model, load_tokenizer, num_positions
from qpeft.training.plots import loss_plot
from qpeft.training.progress import ProgressBar, StepTimer, new_display
from qpeft.training.report import markdown_report
from qpeft.training.runs import RunFolder


@dataclass(frozen=True)
class Result:
    """What a run gave; `metrics.json` holds the same.

    Attributes:
        folder: The run's folder.
        metrics: Plain data: before, after, parameters, seconds a step (None if not known), export.
        curve: (step, training loss in nats per token).
        model: The adapted model, or None if the run had been finished before.
    """

    folder: Path
    metrics: dict[str, Any]
    curve: list[tuple[int, float]]
    model: PeftModel | None


@dataclass(frozen=True)
class Prepared:
    """Everything a run needs, checked before it starts."""

    model: nn.Module
    tokenizer: Any
    train: TokenChunks
    test: TokenChunks
    test_text: str


def prepare(config: TrainConfig) -> Prepared:
    """Loads model, tokeniser and text.

    Raises:
        ConfigError: Anything that cannot be loaded or does not fit together.
    """
    tokenizer = load_tokenizer(config.model.model)
    corpus = load_corpus(config.data)
    train, test = (
        tokenise(text, tokenizer, config.data.context, config.data.by_line) for text in (corpus.train, corpus.test)
    )
    model: Any = load_model(config.model)
    positions = num_positions(model.config)
    if positions is not None and config.data.context > positions:
        raise ConfigError(f"context {config.data.context} is more than the model's {positions} positions; lower it")
    largest = int(max(train.inputs.max(), test.inputs.max()))
    if largest >= model.config.vocab_size:
        raise ConfigError(
            f"the tokeniser gives token {largest}, the model knows {model.config.vocab_size} tokens; they do not "
            "belong together"
        )
    if config.run.paper_metric and tokenizer.eos_token_id is None:
        raise ConfigError("--paper-metric pads with the end-of-text token; this tokeniser has none. Leave it out")
    return Prepared(model, tokenizer, train.for_training(config.data.max_train_chunks), test, corpus.test)


def add_adapter(model: nn.Module, config: TrainConfig) -> PeftModel:
    """The model with the adapter that `config` asks for."""
    adapter = peft_config(config.settings, "CAUSAL_LM")
    resolve_targets(model, adapter)  # a wrong target is named with the nearest right ones, for every method
    set_seed(config.training.seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")  # we export, never merge
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
        return get_peft_model(model, adapter)


def _try_engine(model: PeftModel) -> None:
    """Generates the weights once: an engine that cannot run the circuit says so before the run's folder exists."""
    if isinstance(model.peft_config["default"], QPAConfig):
        with torch.no_grad():
            model.base_model.bank()()


def mean_token_loss(outputs: Any, targets: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """Cross entropy per predicted token; the labels are those of `TokenChunks`."""
    logits, targets = outputs.logits.float().flatten(0, 1), targets[:, 1:]
    if num_items_in_batch is None:
        return F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORED)
    total = F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / num_items_in_batch


def train(
    config: TrainConfig, console: Console | None = None, prepared: Prepared | None = None,
    progress: ProgressBar | None = None,
) -> Result:  # fmt: skip
    """Runs `config` and writes adapter, exported LoRA, metrics, plot and report into the output folder.

    Args:
        config: The settings.
        console: Where progress shows; nothing shows if None.
        prepared: What `prepare(config)` gave, if that was done already.
        progress: Shows the steps; a display of its own on `console` if None.

    Raises:
        QpeftError: Input that cannot be worked with, before any step is taken.
        RunError: Training diverged; nothing is saved.
    """
    console = console or Console(quiet=True)
    folder = RunFolder(output_folder(config), config)
    if folder.finished:
        console.print(f"The run in {folder.path} is finished; nothing is left to do.")
        return Result(folder.path, folder.manifest["metrics"], folder.manifest["curve"], None)
    check_settings(config.settings)
    prepared = prepared or prepare(config)
    model = add_adapter(prepared.model, config)
    _try_engine(model)
    folder.begin()
    folder.save(resolved=resolved_settings(model, config))
    before = folder.manifest.get("before")
    if before is None or (config.run.paper_metric and "paper_perplexity" not in before):
        with model.disable_adapter():
            before = _measure(model, prepared, config)
        folder.save(before=before)
    timer = StepTimer()
    progress = progress or ProgressBar(f"{config.adapter.method} on {config.model.model}", new_display(console))
    trainer = _trainer(model, prepared.train, config, folder, [timer, progress])
    checkpoint = folder.last_checkpoint() if config.run.resume else None
    try:
        curve = _fit(trainer, model, config.training.steps, checkpoint)
    finally:
        progress.close()
    if timer.median is not None:
        folder.save(seconds_per_step=timer.median)  # a run that is interrupted from here on takes no step when resumed
    after = _measure(model, prepared, config)
    if not math.isfinite(after["nats_per_token"]):
        raise RunError(
            f"training diverged: the adapted model's loss is {after['nats_per_token']}. Nothing was saved; lower "
            f"--learning-rate (it was {learning_rate(config):g}) and run again with --overwrite"
        )
    save_adapter(model, folder.path / "adapter")
    exported = export_lora(model, folder.path / "lora")
    metrics = {
        "method": config.adapter.method, "before": before, "after": after, "parameters": parameter_counts(model),
        "seconds_per_step": folder.manifest.get("seconds_per_step"), "learning_rate": learning_rate(config),
        "steps": config.training.steps,
        "export": {
            "lora_parameters": exported.num_parameters, "max_logit_difference": exported.max_difference,
            "weights": exported.weights,
        },
        "generator": generator_facts(model), "against_exact": _against_exact(model, prepared, config, after),
    }  # fmt: skip
    _write_results(folder, config, metrics, curve, exported)
    return Result(folder.path, metrics, curve, model)


def output_folder(config: TrainConfig) -> Path:
    """`--output`, or a folder below runs/ named after method and model."""
    if config.run.output is not None:
        return Path(config.run.output)
    return Path("runs") / f"{config.adapter.method}-{Path(config.model.model).name}"


def _measure(model: nn.Module, prepared: Prepared, config: TrainConfig) -> dict[str, Any]:
    metrics: TextMetrics = evaluate(model, prepared.test, config.run.test_batch_size)
    found = metrics.as_dict()
    if config.run.paper_metric:
        positions = num_positions(model.config) or 512
        found["paper_perplexity"] = paper_perplexity(model, prepared.tokenizer, prepared.test_text, positions)
    return found


def _against_exact(
    model: PeftModel, prepared: Prepared, config: TrainConfig, after: dict[str, Any]
) -> dict[str, Any] | None:
    """How far the engine is from exact simulation at the final angles, and the metrics with exact weights."""
    found = deviation(model)
    if found is None:
        return None
    if found.weights == LAST_SAMPLE:
        after = _measure(with_exact_weights(model), prepared, config)
    return {**asdict(found), "after": after}


def _trainer(
    model: PeftModel, examples: TokenChunks, config: TrainConfig, folder: RunFolder, callbacks: list[TrainerCallback]
) -> Trainer:
    options = config.training
    arguments = TrainingArguments(
        output_dir=str(folder.checkpoints), max_steps=options.steps, per_device_train_batch_size=options.batch_size,
        gradient_accumulation_steps=options.accumulation, learning_rate=learning_rate(config),
        warmup_steps=options.warmup_steps, lr_scheduler_type="linear", weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm, activation_checkpointing=options.checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        logging_steps=min(config.run.log_every, options.steps), save_strategy="steps", save_steps=config.run.save_every,
        save_total_limit=2, report_to=[], seed=options.seed, use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True, remove_unused_columns=False, label_names=["labels"], dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = Trainer(
        model=model, args=arguments, train_dataset=examples, compute_loss_func=mean_token_loss, callbacks=callbacks
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _fit(trainer: Trainer, model: PeftModel, steps: int, checkpoint: Path | None) -> list[tuple[int, float]]:
    """Trains, or goes on from `checkpoint`; gives (step, training loss in nats per token)."""
    state = None if checkpoint is None else TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    if state is not None and state.global_step >= steps:
        # The trainer asks whether it is at the end after a step, never before: it would take one too many.
        model.load_adapter(str(checkpoint), "default", is_trainable=True)
    else:
        with warnings.catch_warnings():
            # Checkpoints of a plain LoRA of the head hold the embedding too; the saved adapter does not.
            warnings.filterwarnings("ignore", message="Setting `save_embedding_layers` to `True`")
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        state = trainer.state
    return [(entry["step"], float(entry["loss"])) for entry in state.log_history if "loss" in entry]


def save_adapter(model: PeftModel, folder: Path) -> None:
    """`save_pretrained`, all or nothing, without base weights."""
    with staged_folder(folder) as staging:
        model.save_pretrained(staging, save_embedding_layers=False)


def _write_results(
    folder: RunFolder, config: TrainConfig, metrics: dict[str, Any], curve: list[tuple[int, float]], exported: Exported
) -> None:
    write_json(folder.path / "metrics.json", metrics)
    method = config.adapter.method
    loss_plot(
        folder.path / "loss.png", {method: curve}, metrics["before"]["nats_per_token"],
        {method: metrics["after"]["nats_per_token"]},
    )  # fmt: skip
    write_text(folder.path / "report.md", markdown_report(config, metrics))
    folder.save(metrics=metrics, curve=curve)
    folder.finish()
