"""`qpeft export`: a saved adapter as files that need no circuit."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from qpeft.errors import ConfigError
from qpeft.terminal import quiet

console = Console()


def export(
    adapter: Annotated[Path, typer.Argument(help="folder of a saved adapter, e.g. RUN/adapter", show_default=False)],
    output: Annotated[Path, typer.Argument(help="folder for the exported files", show_default=False)],
    model: Annotated[
        str | None,
        typer.Option(help="base model: id on the hub, folder, or embedded (the adapter's own)", show_default=False),
    ] = None,
    form: Annotated[
        str | None, typer.Option(help="lora, merged, prefix or stored (what suits the adapter)", show_default=False)
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="of a sampling or noisy engine: last_sample or exact (last_sample)", show_default=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="replace files in an output folder that is not empty")] = False,
) -> None:
    """Export a trained adapter to files that need no circuit.

    - lora: a plain PEFT LoRA or DoRA, for adapters whose update is of rank r

    - merged: the whole model in float32 with the update in its weights, for every adapter that merges

    - prefix: a plain PEFT prefix, for key-value prefixes

    - stored: the same adapter with its weights stored, for feed-forward adapters and additive prefixes; needs qpeft

    The files are re-loaded on the base model and compared with the adapter before they are written.

    Example: qpeft export runs/demo/qpa/adapter my-lora

    Example: qpeft export runs/demo/qpa/adapter my-model --form merged --weights exact
    """
    _check_apart(adapter, output)
    _check_output(output, overwrite)
    quiet()
    from qpeft.adapters.card import write_base_section
    from qpeft.adapters.export import FORMS, export_adapter
    from qpeft.training.recipe import loading_lines
    from qpeft.training.saved import load_saved

    if form is not None:
        _ = FORMS[form]  # an unknown name raises
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's, of layers whose layout it corrects and heads that we untie
        loaded = load_saved(adapter, model)
        done = export_adapter(loaded, output, form, weights=weights)
    written = FORMS[done.form]
    lines = loading_lines(adapter, loaded.peft_config["default"].task_type, model)
    if lines and not written.whole_model:
        write_base_section(output, lines)
    console.print(
        f"Wrote {written.description}: {done.num_parameters:,} numbers, {_size(done.num_bytes)}.\n"
        f"Re-loaded, its outputs differ by at most {done.max_difference:.2g} from the adapter's.\n"
        f"Weights: {done.weights}.\nLoad it: {'; '.join(written.loading_from(str(output)))}",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip


def _check_output(output: Path, overwrite: bool) -> None:
    if output.exists() and not output.is_dir():
        raise ConfigError(f"{output} is a file; give a folder")
    if not overwrite and output.is_dir() and any(output.iterdir()):
        raise ConfigError(f"the folder {output} is not empty; give another, or --overwrite to replace files in it")


def _check_apart(adapter: Path, output: Path) -> None:
    """Refuses an output that would replace the adapter's own files, or mix with them."""
    source, target = adapter.resolve(), output.resolve()
    is_adapter = (source / "adapter_config.json").is_file()  # else the folder is refused, and the right one named
    if is_adapter and (source == target or source in target.parents or target in source.parents):
        relation = "is" if source == target else "lies inside" if source in target.parents else "contains"
        raise ConfigError(f"the output {output} {relation} the adapter's folder {adapter}; give a folder of its own")


def _size(num_bytes: float) -> str:
    """A file size as people read it.

    Example:
        >>> _size(999), _size(1_500), _size(2_345_000)
        ('999 bytes', '1.5 kB', '2.3 MB')
    """
    for unit in ("bytes", "kB", "MB", "GB"):
        if num_bytes < 1000 or unit == "GB":
            break
        num_bytes /= 1000
    return f"{num_bytes:.0f} {unit}" if unit == "bytes" else f"{num_bytes:.1f} {unit}"
