"""`qpeft export`: a saved adapter as files that need no circuit."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from qpeft.errors import ConfigError, QpeftError, unknown_name
from qpeft.terminal import quiet

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

console = Console()
CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
LOADING = {
    "lora": "PeftModel.from_pretrained(base, {folder!r}), or base.load_adapter({folder!r})",
    "merged": "transformers' from_pretrained({folder!r}), with the base model's tokeniser",
    "prefix": "PeftModel.from_pretrained(base, {folder!r})",
    "stored": "import qpeft.adapters; PeftModel.from_pretrained(base, {folder!r})",
}


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
    _check_output(output, overwrite)
    config = _read_config(adapter)
    shapes = _tensor_shapes(adapter)
    base = model or config.base_model_name_or_path
    if not base:
        raise ConfigError(f"{adapter / CONFIG_FILE} names no base model; give it as --model")
    from qpeft.adapters.export import FORMS
    from qpeft.adapters.export import export_adapter as run

    if form is not None and form not in FORMS:
        raise ConfigError(unknown_name("--form", form, FORMS))
    quiet()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's, of layers whose layout it corrects and heads that we untie
        done = run(_load(adapter, config, shapes, base), output, form, weights=weights)
    console.print(
        f"Wrote {FORMS[done.form]}: {done.num_parameters:,} numbers, {_size(done.num_bytes)}.\n"
        f"Re-loaded, its outputs differ by at most {done.max_difference:.2g} from the adapter's.\n"
        f"Weights: {done.weights}.\nLoad it: {LOADING[done.form].format(folder=str(output))}",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip


def _check_output(output: Path, overwrite: bool) -> None:
    if output.exists() and not output.is_dir():
        raise ConfigError(f"{output} is a file; give a folder")
    if not overwrite and output.is_dir() and any(output.iterdir()):
        raise ConfigError(f"the folder {output} is not empty; give another, or --overwrite to replace files in it")


def _read_config(adapter: Path) -> PeftConfig:
    """The adapter's config; raises `ConfigError` for a folder without one, or one that cannot be read."""
    if not (adapter / CONFIG_FILE).is_file():
        inner = adapter / "adapter"
        hint = f"; did you mean {inner}?" if (inner / CONFIG_FILE).is_file() else ", which save_pretrained writes"
        raise ConfigError(f"{adapter} holds no {CONFIG_FILE}{hint}")
    from peft import PeftConfig

    import qpeft.adapters  # noqa: F401  (registers our adapters with peft)

    try:
        return PeftConfig.from_pretrained(str(adapter))
    except QpeftError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{adapter / CONFIG_FILE} cannot be read ({error}): it is damaged, or of a newer peft; save the adapter "
            "again"
        ) from error


def _tensor_shapes(adapter: Path) -> dict[str, list[int]]:
    """The tensors of the adapter's file, by name; raises `ConfigError` for a file that is missing or damaged."""
    from safetensors import SafetensorError, safe_open

    path = adapter / WEIGHTS_FILE
    if not path.is_file():
        raise ConfigError(f"{adapter} holds no {WEIGHTS_FILE}; only weights in the safetensors format are read")
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118  (no mapping)
    except SafetensorError as error:
        raise ConfigError(f"{path} is damaged ({error}); save or download the adapter again") from error


def _load(adapter: Path, config: PeftConfig, shapes: dict[str, list[int]], base: str) -> PeftModel:
    """The adapter on its base model.

    Raises:
        ConfigError: A task that is not known here, or a base model that the adapter does not fit.
    """
    from peft import PeftModel, get_peft_model_state_dict

    model, fresh = _load_base(config, shapes, base)
    built = _generators(config)
    try:
        loaded = PeftModel.from_pretrained(model, adapter, config=config)
    except QpeftError as error:
        raise ConfigError(f"the adapter {adapter} does not fit the model {base}: {error}") from error
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[:2])
        raise ConfigError(f"the adapter {adapter} does not fit the model {base}: {reason}") from error
    if built is not None and _generators(loaded.peft_config["default"]) != built:
        raise ConfigError(
            f"the adapter {adapter} does not fit the model {base}: its circuits were made for target layers of another "
            "size. Give the model it was trained on"
        )
    needed = set(get_peft_model_state_dict(loaded, save_embedding_layers=False))
    allowed = needed | set(get_peft_model_state_dict(loaded, save_embedding_layers=True))
    odd = sorted(needed - shapes.keys()) or sorted(shapes.keys() - allowed)
    if odd:
        raise ConfigError(
            f"the adapter {adapter} does not fit the model {base}: {len(odd)} tensors ({odd[0]}, ...) are in only one "
            "of them. Give the model it was trained on"
        )
    random = [name for name in fresh if not any(f".{name}." in f".{key}" for key in shapes)]
    if random:
        raise ConfigError(f"neither the model {base} nor the adapter has weights for {random[0]}; it would be random")
    return loaded.eval()


def _generators(config: PeftConfig) -> Any:
    """The sizes of an adapter's generators, which loading works out anew; None for adapters without."""
    return (getattr(config, "resolved", None) or {}).get("generators")


def _load_base(config: PeftConfig, shapes: dict[str, list[int]], base: str) -> tuple[Any, list[str]]:
    """The base model for the adapter's task, and the modules that its checkpoint has no weights for."""
    from qpeft.training.config import ModelOptions
    from qpeft.training.models import load_causal, load_config
    from qpeft.training.tasks.classifier import load_classifier

    if config.task_type in (None, "CAUSAL_LM"):
        return load_causal(ModelOptions(base)), []
    if config.task_type == "SEQ_CLS":
        found = load_classifier(ModelOptions(base), _class_names(load_config(base), shapes), _padding(base))
        return found.model, found.fresh
    raise ConfigError(
        f"the command line exports adapters of the tasks CAUSAL_LM and SEQ_CLS; this one is of {config.task_type}. In "
        "Python, qpeft.export_adapter(model, folder) exports any"
    )


def _class_names(config: Any, shapes: dict[str, list[int]]) -> list[str] | None:
    """Names of a classifier's classes, as many as the adapter's own head has; None for a single real number."""
    from qpeft.training.heads import PEFT_HEADS

    # A head may have inner layers, as wide as the model; its last one is the narrowest.
    heads = [shape[0] for key, shape in shapes.items() if any(part in PEFT_HEADS for part in key.split("."))]
    names = list(config.id2label.values())
    count = min(heads, default=len(names))
    if count == 1:
        return None
    return names if len(names) == count else [f"LABEL_{i}" for i in range(count)]


def _padding(base: str) -> Any:
    """The token that classifiers are padded with: the model's, else its tokeniser's; None if neither has one."""
    from qpeft.training.models import load_config, load_tokenizer

    config = load_config(base)
    if config.pad_token_id is not None:
        return config.pad_token_id
    try:
        tokenizer = load_tokenizer(base)
    except ConfigError:
        return None
    return tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id


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
