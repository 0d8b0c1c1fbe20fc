"""The model card that lies beside every saved adapter: how it is loaded and, if generated, by what.

peft writes a card of its own before it saves an adapter's config, and only at the top of a folder. Ours is a marked
section of that card, replaced at each saving; a folder without a card gets one.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from qpeft.files import write_text
from qpeft.qcircuits import Circuit

BEGIN, END = "<!-- qpeft: written at each saving -->", "<!-- qpeft: end -->"
_BASE_BEGIN, _BASE_END = "<!-- qpeft: base model -->", "<!-- qpeft: end of base model -->"
_TEMPLATE = "# Model Card for Model ID"  # the title of a card of peft's that nobody has filled in
_PACKAGES = ("qpeft", "torch", "peft", "transformers", "numpy")
_WIDTH, _MOST_LINES = 110, 200  # of a drawing


class CardConfig:
    """Mixed in before a peft config: wherever the config is saved, its card is."""

    def card_facts(self) -> list[str]:
        """Lines of the card about what this adapter is; empty for an adapter with nothing to tell."""
        return []

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Saves the config, then the card beside it; a card that cannot be written is a warning."""
        super().save_pretrained(save_directory, **kwargs)  # type: ignore[misc]  # of the peft config
        try:
            write_card(self, Path(save_directory))
        except Exception as error:  # an adapter of a long training is not lost for its description
            warnings.warn(f"the model card in {save_directory} was not written: {error}", stacklevel=2)


def write_card(config: Any, folder: Path) -> None:
    """Writes or replaces our section of the card in `folder`, and keeps the rest."""
    path = folder / "README.md"
    card = _load(path)
    card.data["library_name"] = "peft"
    base_model = card.data.get("base_model") or config.base_model_name_or_path
    if base_model:
        card.data["base_model"] = base_model
    else:
        card.data.pop("base_model", None)  # an empty name is refused by the hub
    tags = [tag for tag in card.data.get("tags") or [] if tag != "base_model:adapter:"]
    card.data["tags"] = sorted({*tags, "qpeft"})
    whole = _trained_in_full(config, folder)
    card.text = _with_section(card.text, BEGIN, END, _section(config, whole))
    write_text(path, str(card).rstrip() + "\n")


def write_base_section(folder: Path, loading: list[str]) -> None:
    """Writes or replaces the part of the card in `folder` that says by which lines of Python `base_model` is loaded."""
    path = folder / "README.md"
    card = _load(path)
    lines = ["## Base model", "", "Load `base_model` so:", "", "```python", *loading, "```"]
    card.text = _with_section(card.text, _BASE_BEGIN, _BASE_END, lines)
    write_text(path, str(card).rstrip() + "\n")


def drop_sections(folder: Path) -> None:
    """Removes our sections, of files that were replaced, from the card in `folder`; an unfilled card goes whole."""
    path = folder / "README.md"
    text = path.read_text(encoding="utf8") if path.is_file() else ""
    if BEGIN not in text and _BASE_BEGIN not in text:
        return
    card = _load(path)
    for begin, end in ((BEGIN, END), (_BASE_BEGIN, _BASE_END)):
        card.text = _with_section(card.text, begin, end, None)
    if _TEMPLATE in card.text or not card.text.strip():
        path.unlink()
    else:
        card.data["tags"] = [tag for tag in card.data.get("tags") or [] if tag != "qpeft"]
        write_text(path, str(card).rstrip() + "\n")


def _load(path: Path) -> Any:
    from huggingface_hub import ModelCard

    return ModelCard.load(path) if path.is_file() else ModelCard("---\nlibrary_name: peft\n---\n")


def _with_section(text: str, begin: str, end: str, lines: list[str] | None) -> str:
    """`text` with a section of these lines in its old place, or before everything else; without it if None."""
    section = "" if lines is None else "\n".join([begin, "", *lines, "", end])
    first, last = text.find(begin), text.find(end)
    if 0 <= first < last:
        return text[:first] + section + text[last + len(end) :]
    return f"{section}\n\n{text.lstrip()}" if section else text


def _section(config: Any, whole: list[str]) -> list[str]:
    kind = getattr(config, "file_type", config.peft_type)
    kind = str(getattr(kind, "value", kind))
    base_model = config.base_model_name_or_path or "not named; the model this adapter was trained on"
    return [
        f"# {kind} adapter", "",
        f"Base model: {base_model}", "", "The adapter needs the package qpeft besides peft:", "",
        "```python",
        "import qpeft.adapters  # without this line peft fails with KeyError: " + repr(kind),
        "from peft import PeftModel", "",
        'model = PeftModel.from_pretrained(base_model, "path/to/this/folder")',
        "```", "",
        *config.card_facts(),
        *([f"Trained in full beside it: {', '.join(whole)}.", ""] if whole else []),
        "Saved with " + ", ".join(f"{name} {_version(name)}" for name in _PACKAGES) + ".",
    ]  # fmt: skip


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # a source tree that is not installed
        return "of unknown version"


def generator_facts(config: Any) -> list[str]:
    """What generates an adapter's weights.

    Args:
        config: A `GeneratedConfig` whose `resolved` is filled in.
    """
    resolved = config.resolved
    generators, circuits = resolved["generators"], [Circuit.from_dict(data) for data in resolved["circuits"]]
    trained, generated = (sum(g[name] for g in generators) for name in ("num_parameters", "target_size"))
    frozen, rank_1 = resolved.get("num_frozen"), resolved.get("lora_rank_1")
    facts = [
        f"trained numbers: {trained:,}, which generate {generated:,} weights"
        + (f"; LoRA of rank 1 trains {rank_1:,} on the same layers" if rank_1 else ""),
        *([f"frozen numbers: {frozen:,}, not saved but rebuilt from the seed"] if frozen is not None else []),
        f"seed: {config.seed}",
        f"generators: {len(generators)} (chunk sizes: {_spread([g['chunk_size'] for g in generators])})",
        f"engine: {config.engine}" + (f", differentiated by {config.diff_method}" if config.diff_method else ""),
    ]
    return [
        "## What generates the weights", "", *(f"- {fact}" for fact in facts), "",
        *(drawings(circuits, frozen=config.source == "frozen") if config.source in ("circuit", "frozen") else [
            f"The numbers come from the classical control {config.source!r}: no circuit runs.", "",
        ]),
        "No quantum advantage is claimed: a classical control can do as well. `qpeft export` writes the adapter "
        f"{config.exported}.", "",
    ]  # fmt: skip


def _trained_in_full(config: Any, folder: Path) -> list[str]:
    """Of `modules_to_save`, those whose tensors were saved: peft adds the names of heads that a model may not have."""
    from safetensors import safe_open

    path, names = folder / "adapter_model.safetensors", getattr(config, "modules_to_save", None) or ()
    if not names or not path.is_file():  # peft saves the tensors first
        return []
    with safe_open(path, "pt") as file:
        keys = list(file.keys())
    return [name for name in names if any(f".{name}." in f".{key}" for key in keys)]


def _spread(sizes: list[int]) -> str:
    """The different sizes, or their range if they are many."""
    different = sorted(set(sizes))
    return ", ".join(map(str, different)) if len(different) <= 4 else f"{different[0]} to {different[-1]}"


def drawings(circuits: Sequence[Circuit], frozen: bool = False) -> list[str]:
    """Lines of a card: each different circuit in words; the first is drawn too."""
    lines = [
        f"Circuit {number} of {len(circuits)}: {circuit.num_qubits} qubits, depth {circuit.depth}, "
        f"{circuit.num_parameters} angles" + (", frozen at their random start." if frozen else ".")
        for number, circuit in enumerate(circuits, 1)
    ]
    drawing = circuits[0].draw(_WIDTH).splitlines()
    if len(drawing) > _MOST_LINES:
        drawing = [*drawing[:_MOST_LINES], "... (adapter_config.json holds the whole circuit)"]
    return [*lines, "", "```text", *drawing, "```", ""]
