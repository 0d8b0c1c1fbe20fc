"""Step time of Quantum-PEFT against LoRA of equal rank on a model of GPT-2 medium's shape, and the generator's share.

The model has random weights (24 layers of width 1024, 355M parameters, float32); the targets are its 48 attention
projections c_attn and attn.c_proj. A step is forward, backward and AdamW on one text of 128 tokens. In each round every
adapter is attached to the same base model, timed, and taken off again, so that what else the machine does meets all of
them; a ratio is the median over the rounds of the ratios in a round. Quantum-PEFT must take at most 1.1 times LoRA's
step. The generator alone (all 96 frames and the 48 products U diag(l), forward and backward) is timed without a model.

    python benchmarks/adapter_speed.py
    python benchmarks/adapter_speed.py --layers 2 --rounds 2
    OMP_NUM_THREADS=1 python benchmarks/adapter_speed.py

The last is for a machine that does other work: threads that wait for each other there lose whole slices of time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import warnings
from collections.abc import Callable
from typing import Any

import torch
from circuit_speed import median_seconds
from in_turns import in_turns
from peft import LoraConfig, PeftConfig, get_peft_model
from rich.console import Console
from rich.progress import track
from transformers import GPT2Config, GPT2LMHeadModel, logging

from qpeft.adapters import QuantumPEFTConfig

ALLOWED = 1.1  # times LoRA's step
LORA = "LoRA"
TARGETS: Any = ["c_attn", "attn.c_proj"]
STEPS: dict[str, dict[str, Any]] = {
    "Pauli, L=1": {"parametrization": "pauli", "reps": 1},
    "Taylor P=3": {"parametrization": "taylor", "order": 3},
}
GENERATORS: dict[str, dict[str, Any]] = {
    **STEPS,
    "Pauli, L=1, other sizes padded": {"parametrization": "pauli", "reps": 1, "other_sizes": "pad"},
    "Pauli, L=4": {"parametrization": "pauli", "reps": 4},
    "node N'=2, L=1": {"parametrization": "node", "node_size": 2},
    "exponential": {"parametrization": "exponential"},
    "Taylor P=18": {"parametrization": "taylor"},
    "Cayley": {"parametrization": "cayley"},
    "Neumann P=18": {"parametrization": "neumann"},
    "Householder": {"parametrization": "householder"},
    "Givens": {"parametrization": "givens"},
}


def quantum(rank: int, settings: dict[str, Any]) -> QuantumPEFTConfig:
    return QuantumPEFTConfig(r=rank, target_modules=TARGETS, **settings)


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def step_seconds(base: GPT2LMHeadModel, config: PeftConfig, ids: torch.Tensor) -> float:
    """Median seconds of a training step; `base` is as before when this returns."""
    model = get_peft_model(base, config).train()
    optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)

    def step() -> None:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        wait(ids.device.type)

    seconds = median_seconds(step)
    model.unload()
    return seconds


def compare_steps(arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of a step by adapter, one figure a round."""
    shape = GPT2Config(n_layer=arguments.layers, n_embd=1024, n_head=16)
    with torch.device(arguments.device):
        base = GPT2LMHeadModel(shape)
        ids = torch.randint(shape.vocab_size, (1, arguments.tokens))
    configs: dict[str, PeftConfig] = {LORA: LoraConfig(r=arguments.rank, target_modules=TARGETS, fan_in_fan_out=True)}
    configs |= {name: quantum(arguments.rank, settings) for name, settings in STEPS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in configs}
    console = Console(stderr=True)
    for count in track(range(arguments.rounds), description="rounds", console=console, transient=True):
        for name in list(configs)[:: 1 if count % 2 else -1]:
            seconds[name].append(step_seconds(base, configs[name], ids))
    return seconds


def generator_job(settings: dict[str, Any], arguments: argparse.Namespace) -> tuple[int, Callable[[], None]]:
    """Numbers that train, and forward + backward of the bank of all targets."""
    shapes = {"c_attn": (3072, 1024), "c_proj": (1024, 1024)}  # (out, in)
    targets = {f"h.{i}.attn.{name}": shape for i in range(arguments.layers) for name, shape in shapes.items()}
    with torch.device(arguments.device):
        bank = quantum(arguments.rank, settings).build_bank(targets)

    def tensors() -> list[torch.Tensor]:
        return [tensor for weights in bank().values() for tensor in weights.values()]

    with torch.no_grad():
        gradients = [torch.randn_like(tensor) for tensor in tensors()]

    def job() -> None:
        bank.zero_grad()
        torch.autograd.backward(tensors(), gradients)
        wait(arguments.device)

    return sum(parameter.numel() for parameter in bank.parameters()), job


def print_steps(seconds: dict[str, list[float]], generators: dict[str, float]) -> None:
    print(
        "| adapter | step | ratio to LoRA (lowest to highest round) | generator's share of LoRA's step | at most 1.1 |"
    )
    print("| --- | ---: | ---: | ---: | --- |")
    lora = statistics.median(seconds[LORA])
    print(f"| {LORA} | {1000 * lora:.0f} ms | | | |")
    for name in STEPS:
        ratios = [own / reference for own, reference in zip(seconds[name], seconds[LORA], strict=True)]
        ratio = statistics.median(ratios)
        print(
            f"| {name} | {1000 * statistics.median(seconds[name]):.0f} ms | {ratio:.3f} ({min(ratios):.3f} to "
            f"{max(ratios):.3f}) | {generators[name] / lora:.1%} | {'PASS' if ratio <= ALLOWED else 'FAIL'} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=24, help="of the model (default: 24)")
    parser.add_argument("--tokens", type=int, default=128, help="of the text (default: 128)")
    parser.add_argument("--rank", type=int, default=4, help="K, and LoRA's r (default: 4)")
    parser.add_argument("--rounds", type=int, default=5, help="times each adapter is attached (default: 5)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    torch.manual_seed(0)
    where = torch.cuda.get_device_name() if arguments.device == "cuda" else f"CPU threads: {torch.get_num_threads()}"
    print(
        f"GPT-2 of {arguments.layers} layers, 1 x {arguments.tokens} tokens, rank {arguments.rank}, float32, {where}; "
        f"load average of the machine {os.getloadavg()[0]:.1f}\n"
    )
    jobs = {name: generator_job(settings, arguments) for name, settings in GENERATORS.items()}
    timed = in_turns({name: job for name, (_, job) in jobs.items()}, rounds=5, at_least=0.1)
    generators = {name: statistics.median(found) for name, found in timed.items()}
    print("| generator alone | trained numbers | forward + backward |\n| --- | ---: | ---: |")
    for name, seconds in generators.items():
        print(f"| {name} | {jobs[name][0]:,} | {1000 * seconds:.3g} ms |")
    print(flush=True)
    print_steps(compare_steps(arguments), generators)
    print(f"\nload average of the machine now {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
