"""Text in, fixed-length token examples out."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from qpeft.errors import ConfigError
from qpeft.training import embedded
from qpeft.training.config import DataOptions

IGNORED = -100  # target of a padded position: torch's cross entropy leaves it out
PIECE_CHARS = 2**16  # texts are tokenised in pieces of about this size, cut at line ends
SPLIT_NAMES = {"train": ("train",), "test": ("test", "validation", "valid", "val", "dev")}


@dataclass(frozen=True)
class Corpus:
    """A text to train on and a text to evaluate on."""

    train: str
    test: str


def load_corpus(options: DataOptions) -> Corpus:
    """The texts `--data` names, cleaned and cut as asked.

    A single text file is split: the first nine tenths train, the rest tests.

    Raises:
        ConfigError: Nothing there, or a file that is empty or no text.
    """
    path = Path(options.data)
    if options.data == embedded.NAME:
        topics = embedded.language_reference()
        train, test = (
            _join(topic for i, topic in enumerate(topics) if (i % 10 == 9) == held) for held in (False, True)
        )
    elif path.is_file():
        train, test = _split(read_text(path), options.test_data is None)
    elif path.is_dir() and any(path.glob("*.txt")):
        train = read_text(_split_file(path, "train"))
        test = "" if options.test_data else read_text(_split_file(path, "test"))
    else:
        train, test = _from_datasets(options)
    if options.test_data:
        test = read_text(Path(options.test_data))
    clean = CLEANINGS[options.clean]
    corpus = Corpus(clean(train[: options.max_train_chars]), clean(test[: options.max_test_chars]))
    for name, text in (("training", corpus.train), ("test", corpus.test)):
        if not text.strip():
            raise ConfigError(f"the {name} text of {options.data} is empty; give a text with at least a few words")
    return corpus


def read_text(path: Path) -> str:
    """The text of a UTF-8 file; raises `ConfigError` if it is missing, empty or binary."""
    try:
        text = path.read_text(encoding="utf8")
    except FileNotFoundError:
        raise ConfigError(f"there is no text file {path}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not a UTF-8 text file; convert it, or give another") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read as a text file: {error.strerror}") from error
    if "\0" in text:
        raise ConfigError(f"{path} holds NUL bytes: a binary file, not text")
    if not text.strip():
        raise ConfigError(f"{path} is empty")
    return text


def _join(texts: Iterable[str]) -> str:
    return "\n\n".join(texts)


def _split(text: str, hold_out: bool) -> tuple[str, str]:
    """Cuts a tenth off the end, at a line end where there is one."""
    if not hold_out:
        return text, ""
    cut = len(text) * 9 // 10
    line_end = text.find("\n", cut) + 1
    cut = line_end if 0 < line_end < len(text) else cut
    return text[:cut], text[cut:]


def _split_file(folder: Path, split: str) -> Path:
    """The text file of a split: `train.txt`, `wiki.train.txt`, ..."""
    files = sorted(folder.glob("*.txt"))
    for name in SPLIT_NAMES[split]:
        for file in files:
            if name in re.split(r"[._-]", file.stem.lower()):
                return file
    raise ConfigError(
        f"{folder} has no {split} text ({' or '.join(f'{name}.txt' for name in SPLIT_NAMES[split])}); it holds "
        f"{', '.join(file.name for file in files)}. Give a file with --data, and another with --test-data"
    )


def _from_datasets(options: DataOptions) -> tuple[str, str]:
    splits = load_splits(options)
    if "train" not in splits:
        raise ConfigError(f"dataset {options.data} has no train split; it has {', '.join(splits)}")
    train = _column_text(splits["train"], options)
    held_out = next((splits[name] for name in SPLIT_NAMES["test"] if name in splits), None)
    if held_out is None:
        return _split(train, options.test_data is None)
    return train, _column_text(held_out, options)


def load_splits(options: DataOptions) -> dict[str, Any]:
    """The splits of a dataset of the hub, of a folder of data files, or saved with `save_to_disk`.

    Raises:
        ConfigError: There is no such dataset.
    """
    import datasets

    path = Path(options.data)
    try:
        if path.is_dir() and any((path / name).exists() for name in ("dataset_dict.json", "dataset_info.json")):
            loaded: Any = datasets.load_from_disk(options.data)
        else:
            loaded = datasets.load_dataset(options.data, options.data_config)
    except Exception as error:  # the library raises many types; all mean that this name gives no dataset
        kinds = "text file, no folder with text files" if options.task == "language-modelling" else "TSV or CSV file"
        raise ConfigError(
            f"--data {options.data!r} is no {kinds} and no dataset that can be loaded "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'})"
        ) from error
    return loaded if isinstance(loaded, dict) else {"train": loaded}


def _column_text(rows: Any, options: DataOptions) -> str:
    column = options.text_column or "text"
    if column not in rows.column_names:
        raise ConfigError(
            f"dataset {options.data} has no column {column!r}; it has {', '.join(rows.column_names)}. "
            "Choose one with --text-column"
        )
    return "".join(row if row.endswith("\n") else row + "\n" for row in rows[column])


def detokenise_wikitext(text: str) -> str:
    """Undoes the spacing of WikiText's word tokenisation and drops its ``<unk>``."""
    for spaced, plain in ((" <unk> ", " "), ("<unk>", ""), (" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", ".")):
        text = text.replace(spaced, plain)
    text = re.sub(r" ([.,;:!?)%])", r"\1", text)
    text = re.sub(r" '(s|t|re|ve|ll|d|m)\b", r"'\1", text)
    return re.sub(r"\n\s*\n", "\n", text)


def join_stories(text: str) -> str:
    """Drops the ``<|endoftext|>`` lines between the stories of TinyStories' files, and blank lines."""
    return re.sub(r"\n\s*\n", "\n", text.replace("<|endoftext|>", "\n"))


CLEANINGS: dict[str, Callable[[str], str]] = {"none": str, "wikitext": detokenise_wikitext, "stories": join_stories}


class TokenChunks(Dataset[dict[str, Tensor]]):
    """A token stream cut into examples of `context` tokens, each with its next-token targets.

    Targets cross the border to the next example, so that every token but the first is predicted once. The last example
    is padded, and its padding has no targets.

    Attributes:
        inputs: (n, context) token ids.
        targets: (n, context) next token ids, `IGNORED` where padded.
        num_bytes: UTF-8 bytes of the text the tokens stand for.
        num_ids: Tokens of the whole text.
        unknown_share: Share of the tokens that are the tokeniser's unknown token.
    """

    def __init__(self, ids: Tensor, context: int, num_bytes: int, unknown_id: int | None = None) -> None:
        if len(ids) < 2:
            raise ConfigError(f"the text has {len(ids)} token(s); at least 2 are needed to predict one from another")
        rows = -(-(len(ids) - 1) // context)
        padding = rows * context + 1 - len(ids)
        padded = torch.cat([ids, ids.new_full((padding,), IGNORED)])
        self.targets = padded[1:].view(rows, context)
        self.inputs = padded[:-1].view(rows, context).clamp_min(0)
        self.num_ids, self.num_bytes = len(ids), num_bytes
        self.unknown_share = 0.0 if unknown_id is None else float((ids == unknown_id).double().mean())

    @property
    def num_targets(self) -> int:
        return int((self.targets != IGNORED).sum())

    def for_training(self, most: int | None) -> TokenChunks:
        """At most the first `most` examples, without a padded last one where there are others."""
        padded = len(self) > 1 and bool((self.targets[-1] == IGNORED).any())
        rows = min(len(self) - padded, most or len(self))
        part = copy.copy(self)
        part.inputs, part.targets = self.inputs[:rows], self.targets[:rows]
        return part

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Inputs (context,) and labels (context + 1,): an ignored place, then the targets.

        `Trainer` counts a batch's targets to average over accumulated batches, and for some models leaves the first
        label out, which their own loss would shift away. The ignored place makes both counts the same.
        """
        target = self.targets[index]
        return {"input_ids": self.inputs[index], "labels": torch.cat([target.new_tensor([IGNORED]), target])}


def tokenise(text: str, tokenizer: Callable[..., Any], context: int, by_line: bool = False) -> TokenChunks:
    """Tokenises a text without special tokens.

    Args:
        text: The text.
        tokenizer: A transformers tokeniser.
        context: Tokens an example.
        by_line: Tokenise non-empty lines one by one without their line ends; each then counts one byte for its end.
    """
    if by_line:
        pieces = [line for line in text.split("\n") if line.strip()]
        num_bytes = sum(len(piece.encode()) + 1 for piece in pieces)
    else:
        pieces, num_bytes = _pieces(text), len(text.encode())
    encoded = tokenizer(pieces, add_special_tokens=False, verbose=False)["input_ids"]
    ids = torch.tensor([token for piece in encoded for token in piece], dtype=torch.long)
    return TokenChunks(ids, context, num_bytes, getattr(tokenizer, "unk_token_id", None))


def _pieces(text: str) -> list[str]:
    pieces, start = [], 0
    while start < len(text):
        end = text.rfind("\n", start, start + PIECE_CHARS) + 1 if start + PIECE_CHARS < len(text) else len(text)
        end = end if end > start else start + PIECE_CHARS
        pieces.append(text[start:end])
        start = end
    return pieces
