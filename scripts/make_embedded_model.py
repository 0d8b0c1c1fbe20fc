"""Train the small language model that ships in the package (``qpeft/training/embedded/model``).

A GPT-2-architecture model of about one million parameters with its own byte-level BPE, trained on text that every
Python installation carries: the docstrings of the standard library's source files. It is what ``qpeft demo`` adapts.

    python scripts/make_embedded_model.py            # about 25 minutes on two cores

The result depends on the standard library's version and on the machine's arithmetic, so the shipped file is a build
product: rerunning this script gives an equally good model, not the same bytes.
"""

from __future__ import annotations

import argparse
import ast
import sysconfig
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, Trainer, TrainingArguments

END_OF_TEXT = "<|endoftext|>"
VOCABULARY, CONTEXT = 2048, 256
SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo", "ensurepip"}
OUTPUT = Path(__file__).resolve().parents[1] / "qpeft" / "training" / "embedded" / "model"


def standard_library_docstrings() -> list[str]:
    """Every docstring of the standard library, found by parsing (not importing) its source files."""
    library = Path(sysconfig.get_paths()["stdlib"])
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = []
    for path in sorted(library.rglob("*.py")):
        if SKIPPED_FOLDERS & set(path.relative_to(library).parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf8"))
        except (SyntaxError, UnicodeDecodeError):  # templates and files in another encoding
            continue
        found = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, documented))
        docstrings += [text for text in found if text]
    return docstrings


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE, so that no text has unknown tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[END_OF_TEXT], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, model_max_length=CONTEXT
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000, help="optimiser steps of 16 x 256 tokens")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()

    docstrings = standard_library_docstrings()
    tokenizer = train_tokenizer(docstrings)
    stream: list[int] = []
    order = torch.randperm(len(docstrings), generator=torch.Generator().manual_seed(0)).tolist()
    for index in order:
        stream += tokenizer(docstrings[index])["input_ids"] + [tokenizer.eos_token_id]
    chunks = torch.tensor(stream[: len(stream) // CONTEXT * CONTEXT]).view(-1, CONTEXT)
    print(f"{len(docstrings)} docstrings, {sum(map(len, docstrings)):,} characters, {len(stream):,} tokens")

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=128, n_layer=4, n_head=4,
        resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    held_out = len(chunks) // 50
    training = TrainingArguments(
        output_dir=str(arguments.output.parent / "checkpoints"), max_steps=arguments.steps,
        per_device_train_batch_size=16, per_device_eval_batch_size=16, learning_rate=3e-3, warmup_steps=100,
        lr_scheduler_type="cosine", weight_decay=0.1, logging_steps=100, eval_strategy="steps", eval_steps=500,
        save_strategy="no", report_to=[], use_cpu=True, seed=0, disable_tqdm=True,
    )  # fmt: skip
    examples = [{"input_ids": chunk, "labels": chunk} for chunk in chunks]
    Trainer(model, training, train_dataset=examples[held_out:], eval_dataset=examples[:held_out]).train()

    for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
        setattr(model.config, name, 0.0)
    model.save_pretrained(arguments.output)
    tokenizer.save_pretrained(arguments.output)
    weights = arguments.output / "model.safetensors"
    halved = {name: tensor.half() for name, tensor in load_file(weights).items()}
    save_file(halved, weights, metadata={"format": "pt"})
    print(f"{weights}: {weights.stat().st_size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
