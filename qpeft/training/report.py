"""The report of a run: a short Markdown page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from qpeft.adapters.export import FORMS
from qpeft.adapters.method_table import METHODS
from qpeft.adapters.regenerate import EXACT, LAST_SAMPLE
from qpeft.noise.survey import stale
from qpeft.training.config import TrainConfig
from qpeft.training.tasks import Task, task_for

_WEIGHTS = {
    EXACT: "the exact weights (`exact`)",
    LAST_SAMPLE: "the weights of the engine's last sample, or noise (`last_sample`), with which the test was made",
}


NOT_ORTHONORMAL = 1e-2  # rounding stays below 1e-4 at any size


def warnings_for(task: Task, metrics: dict[str, Any]) -> list[str]:
    """What a reader must know before trusting or using the numbers."""
    found = []
    counts = metrics["parameters"]
    adapter, rank_1 = counts["trained"] - counts["head"], counts["lora_rank_1"]
    if METHODS[metrics["method"]].generates and rank_1 is not None and adapter > rank_1:
        found.append(
            f"LoRA of rank 1 would be smaller: it trains {rank_1:,} numbers, this adapter "
            f"{adapter:,}. Generated weights save parameters only below that; choose fewer (qpeft count shows the "
            "choices), or larger targets"
        )
    far = max((one["orthogonality_error"] for one in metrics["frames"] or ()), default=0.0)
    if far > NOT_ORTHONORMAL:
        found.append(
            f"the frames are not orthonormal any more (error {far:.1g}): the series is too short for what was trained. "
            "Raise --order, lower --learning-rate, or take a parametrization that is orthonormal for all numbers, such "
            "as cayley"
        )
    generator = metrics["generator"]
    for noise, calibrated in sorted(calibrations({} if generator is None else generator["engine"]).items()):
        warning = stale(calibrated)
        if warning:
            found.append(f"noise of {noise}: {warning}")
    return found + task.warnings(metrics)


def calibrations(engine: dict[str, Any]) -> dict[str, str | None]:
    """The devices and qubits in an engine's description, with the dates of calibration; engines may hold engines."""
    names = engine.get("ran_on") or [engine.get("noise")]
    found = dict.fromkeys(names, engine["calibrated"]) if "calibrated" in engine else {}
    for part in engine.values():
        if isinstance(part, dict):
            found |= calibrations(part)
    return found


def markdown_report(config: TrainConfig, metrics: dict[str, Any]) -> str:
    """The page: before and after, parameters against plain LoRA, the circuit, how to load the result."""
    task, before, after, counts = task_for(config), metrics["before"], metrics["after"], metrics["parameters"]
    shown = task.metrics(after)
    rows = [(metric.title, metric.text(before), metric.text(after)) for metric in shown]
    exact, seconds = metrics["against_exact"], metrics["seconds_per_step"]
    if metrics["export"]["weights"] == LAST_SAMPLE:
        rows.append((f"{shown[0].title}, weights regenerated exactly", "", shown[0].text(exact["after"])))
    head = [("of these, the head and other layers trained in full", f"{counts['head']:,}")] if counts["head"] else []
    lines = [
        f"# {config.adapter.method} on {config.model.model}",
        "",
        f"Data: {config.data.data}; {metrics['steps']} steps at learning rate {metrics['learning_rate']:g}, seed "
        f"{config.training.seed}; {task.description(after)}.",
        "",
        *markdown_table(("test data", "before", "after"), rows),
        "",
        *markdown_table(
            ("parameters", "count"),
            [
                ("trained", f"{counts['trained']:,}"),
                *head,
                ("frozen numbers", f"{counts['frozen']:,}"),
                ("plain LoRA of the same rank would train", _count(counts["lora_same_rank"])),
                ("plain LoRA of rank 1 would train", _count(counts["lora_rank_1"])),
                ("the model", f"{counts['model']:,}"),
            ],
        ),
        "",
        f"Median step: {'not known' if seconds is None else f'{1000 * seconds:.1f} ms'}. "
        + _export_sentence(metrics["export"]),
        "",
        "![training loss](loss.png)",
    ]
    warnings = warnings_for(task, metrics)
    if warnings:
        lines += ["", "## Mind", "", *(f"* {text}." for text in warnings)]
    lines += _circuit_section(metrics["generator"], exact)
    lines += _frames_section(metrics["frames"], config)
    lines += ["", "## Use", "", *_usage(metrics, task.loading(metrics["resolved"]))]
    return "\n".join(lines) + "\n"


def _count(number: int | None) -> str:
    return "–" if number is None else f"{number:,}"


def _circuit_section(generator: dict[str, Any] | None, exact: dict[str, Any] | None) -> list[str]:
    if generator is None or exact is None:
        return []
    drawing = generator["drawing"].splitlines()
    return [
        "", "## Circuit", "",
        f"{_several(generator)}{generator['ansatz']}: {generator['qubits']} qubits, {generator['angles']} angles, "
        f"depth {generator['depth']}; {generator['chunks']} basis states give chunks of {generator['chunk_size']} "
        f"weights (source: {generator['source']}; engine: {generator['engine']['name']}, differentiated by "
        f"{generator['engine'].get('diff_method', 'its own rule')}).{_noise_sentence(generator['engine'])} "
        "At the final angles the engine's "
        f"distribution and the exact one have the total variation {exact['total_variation']:.4f} and the fidelity "
        f"{exact['fidelity']:.4f}. No quantum advantage is claimed: a classical "
        "control can do as well.",
        "", "```text", *(line if len(line) <= 100 else line[:97] + "..." for line in drawing), "```",
    ]  # fmt: skip


def _frames_section(frames: list[dict[str, Any]] | None, config: TrainConfig) -> list[str]:
    if frames is None:
        return []
    rows = [
        (f"{one['size']:,}", f"{one['frames']:,}", f"{one['numbers']:,}", f"{one['orthogonality_error']:.1e}")
        for one in frames
    ]
    update = "U diag(l) V^T" if config.frame.network is None else f"a {config.frame.network} network of frames"
    given = {
        "rank": config.adapter.rank, "alpha": config.adapter.alpha, "ansatz": config.generator.ansatz,
        "reps": config.generator.reps, **asdict(config.frame),
    }  # fmt: skip
    return [
        "", "## Frames", "",
        f"Each update is {update}. {config.frame.parametrization} makes the frames, which after training are at most "
        "so far from orthonormal:", "",
        *markdown_table(("rows N", "frames", "numbers of one", "largest entry of U^T U - 1"), rows),
        "", "Settings: " + ", ".join(f"{name} {value}" for name, value in given.items() if value is not None) + ".",
    ]  # fmt: skip


def _several(generator: dict[str, Any]) -> str:
    number = generator["generators"]
    return f"{number} generators, one a layer; the largest: " if number > 1 else ""


def _noise_sentence(engine: dict[str, Any]) -> str:
    noises = [
        name if stale(date) else f"{name}, calibrated {date or 'never'}"  # an old date stands among the warnings
        for name, date in sorted(calibrations(engine).items())
    ]
    return f" Noise of {'; '.join(noises)}." if noises else ""


def _export_sentence(export: dict[str, Any]) -> str:
    if export["form"] is None:
        return "`qpeft export adapter OUTPUT` writes the model with the update merged into its weights."
    return (
        f"The export in `{export['form']}/` holds {_WEIGHTS[export['weights']]}; it was re-loaded and its outputs "
        f"differ by at most {export['max_difference']:.1e}."
    )


_REGISTERING = "import qpeft.adapters  # registers its methods with peft"


def _usage(metrics: dict[str, Any], loading: list[str]) -> list[str]:
    def code(title: str, lines: list[str]) -> list[str]:
        return [title, "", "```python", *lines, "```", ""]

    form, config = metrics["export"]["form"], METHODS[metrics["method"]].config
    found = code("The base model:", loading) if loading else []
    if form is not None:
        needs = "this package, but no circuit" if FORMS[form].needs_qpeft else "peft alone"
        found += code(f"The export ({FORMS[form].title}) needs {needs}:", FORMS[form].loading_from(form))
    first = [_REGISTERING] if config.__module__.startswith("qpeft.") else []
    found += code(
        "The adapter as it was trained:", [*first, 'model = PeftModel.from_pretrained(base_model, "adapter")']
    )
    return found[:-1]


def markdown_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Lines of a Markdown table; the columns after the first are right-aligned."""
    return [
        f"| {' | '.join(header)} |",
        f"| --- |{' ---: |' * (len(header) - 1)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
