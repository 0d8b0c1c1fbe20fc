"""The methods that `--method` may name: QPA over each carrier, our other adapters, and peft's."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import peft

from qpeft.adapters.adalora import RankAllocation
from qpeft.adapters.additive_prefix import AdditivePrefixConfig
from qpeft.adapters.checkpoints import LatentNumbers
from qpeft.adapters.config import QPAConfig
from qpeft.adapters.feedforward import FeedForwardConfig, HoulsbyConfig, PfeifferConfig
from qpeft.adapters.generated_layers import QPAAdditivePrefixConfig, QPAFeedForwardConfig
from qpeft.adapters.methods import Method, Settings
from qpeft.adapters.prefix import QPAPrefixConfig
from qpeft.adapters.proximal import ProximalGates
from qpeft.adapters.quantum_peft import QuantumPEFTConfig
from qpeft.adapters.sora import SoRAConfig
from qpeft.frame_settings import FrameSettings
from qpeft.generator_settings import SETTING_NAMES
from qpeft.registry import Registry

# Which setting fills which field of a config.
TARGETS = {"target_modules": "targets"}
LORA = TARGETS | {"r": "rank", "lora_alpha": "alpha", "lora_dropout": "dropout"}
LYCORIS = TARGETS | {"r": "rank", "alpha": "alpha", "module_dropout": "dropout"}
BOTTLENECK = TARGETS | {name: name for name in ("bottleneck", "nonlinearity")}
PLACED = BOTTLENECK | {"placement": "placement"}
DORA = {"dora_magnitude": "dora_magnitude", "dora_magnitude_size": "dora_magnitude_size"}
PREFIX = {"num_virtual_tokens": "virtual_tokens"}
FRAMES = {field.name: field.name for field in fields(FrameSettings)} | {"ansatz": "ansatz", "reps": "reps"}
GENERATED = {name: name for name in (*SETTING_NAMES, "seed")}

QPA: dict[str, Any] = {
    "source": "arXiv 2410.09846",
    "learning_rate": 3e-2,
    "learning_rates": {("preset", "paper"): 1e-2},
}
STORED: dict[str, Any] = {"merges": False, "export": "stored"}
MERGED: dict[str, Any] = {"export": "merged"}


def _adalora(settings: Settings) -> dict[str, Any]:
    """From half as many ranks more to `rank`, over the middle of the run, as in the paper's experiments."""
    rank, steps = settings["rank"], settings["steps"]
    return {"target_r": rank, "init_r": -(-3 * rank // 2), "total_step": steps, "tinit": steps // 10,
            "tfinal": steps // 3}  # fmt: skip


METHODS: Registry[Method] = Registry(
    "method",
    {
        "qpa": Method(
            QPAConfig, LORA | GENERATED, "what generates LoRA's A and B", "angles + network", **QPA,
        ),
        "qpa-dora": Method(
            QPAConfig, LORA | DORA | GENERATED, "what generates DoRA's A, B and magnitudes", "angles + network",
            fixed={"use_dora": True}, **QPA,
        ),
        "qpa-prefix": Method(
            QPAPrefixConfig, PREFIX | GENERATED, "what generates a prefix's keys and values", "angles + network",
            merges=False, export="prefix", **QPA | {"learning_rate": 1e-1},
        ),
        "qpa-ffa": Method(
            QPAFeedForwardConfig, PLACED | GENERATED, "what generates W_down and W_up", "angles + network",
            **STORED, **QPA,
        ),
        "qpa-additive-prefix": Method(
            QPAAdditivePrefixConfig, TARGETS | {"length": "prefix_length"} | GENERATED,
            "what generates a vector for each position", "angles + network", **STORED, **QPA | {"learning_rate": 1e-2},
        ),
        "quantum-peft": Method(
            QuantumPEFTConfig, LORA | FRAMES, "what generates the frames U and V, and r values between them",
            "pauli: (2L+1)(q + q') - 4L + r, q = log2 in, q' = log2 out; taylor: r (in + out) - r (r + 1) + r",
            "arXiv 2503.05431", 3e-2, alpha=32, learning_rates={("parametrization", "pauli"): 1e-1},
            callbacks=lambda model: [LatentNumbers()],
        ),
        "lora": Method(
            peft.LoraConfig, LORA, "A (r x in) and B (out x r)", "r (in + out)", "arXiv 2106.09685", 3e-2,
        ),
        "dora": Method(
            peft.LoraConfig, LORA, "A, B and a magnitude for each output", "r (in + out) + out", "arXiv 2402.09353",
            1e-1, fixed={"use_dora": True},
        ),
        "adalora": Method(
            peft.AdaLoraConfig, TARGETS | {"lora_alpha": "alpha", "lora_dropout": "dropout"},
            "P (out x r'), Q (r' x in), r' values; r' falls from 1.5 r to r on average",
            "R (in + out + 1), R = 1.5 r rounded up",
            "arXiv 2303.10512", 1e-1, derived=_adalora, derived_from=("rank",),
            callbacks=lambda model: [RankAllocation()],
        ),
        "sora": Method(
            SoRAConfig, LORA | {"threshold": "threshold", "gate_l1": "gate_l1"}, "A, B and a gate for each rank",
            "r (in + out + 1)", "Ding et al., EMNLP 2023", 3e-2, callbacks=lambda model: [ProximalGates()],
        ),
        "loha": Method(
            peft.LoHaConfig, LYCORIS, "two pairs of factors, multiplied element by element", "2 r (in + out)",
            "arXiv 2108.06098", 3e-2, **MERGED,
        ),
        "lokr": Method(
            peft.LoKrConfig, LYCORIS, "factors of a Kronecker product",
            "a c + r (b + d), or a c + b d if r >= max(b, d) / 2; out = a b, in = c d",
            "arXiv 2309.14859", 3e-2, **MERGED,
        ),
        "oft": Method(
            peft.OFTConfig, TARGETS | {"oft_block_size": "block_size", "module_dropout": "dropout"},
            "a skew matrix for each block of b inputs", "in (b - 1) / 2", "arXiv 2306.07280", 1e-2,
            fixed={"r": 0}, **MERGED,
        ),
        "boft": Method(
            peft.BOFTConfig, TARGETS | {"boft_block_size": "block_size", "boft_dropout": "dropout"},
            "a matrix for each block of b inputs, a scale for each output", "in b + out", "arXiv 2311.06243", 1e-2,
            **MERGED,
        ),
        "vera": Method(
            peft.VeraConfig, TARGETS | {"r": "rank", "vera_dropout": "dropout", "projection_prng_key": "seed"},
            "scales of two frozen random factors", "r + out", "arXiv 2310.11454", 3e-2, **MERGED,
        ),
        "fourierft": Method(
            peft.FourierFTConfig, TARGETS | {"n_frequency": "frequencies", "random_loc_seed": "seed"},
            "n Fourier coefficients of the update", "n", "arXiv 2405.03003", 3e-2, **MERGED,
        ),
        "prefix": Method(
            peft.PrefixTuningConfig, PREFIX, "keys and values of T virtual tokens in every layer",
            "2 T layers kv_dim", "arXiv 2101.00190", 3e-1, merges=False, export="prefix",
        ),
        "ffa": Method(
            FeedForwardConfig, PLACED, "W_down (b x H) and W_up (H x b) before each target", "2 b H",
            "arXiv 2410.09846", 1e-2, **STORED,
        ),
        "houlsby": Method(
            HoulsbyConfig, BOTTLENECK, "a bottleneck after each attention and feed-forward block", "2 b H + b + H",
            "arXiv 1902.00751", 1e-2, **STORED,
        ),
        "pfeiffer": Method(
            PfeifferConfig, BOTTLENECK, "a bottleneck after each feed-forward block", "2 b H + b + H",
            "arXiv 2005.00247", 1e-2, **STORED,
        ),
        "additive-prefix": Method(
            AdditivePrefixConfig, TARGETS | {"length": "prefix_length"}, "a vector for each position", "T in",
            "arXiv 2410.09846", 1e-2, **STORED,
        ),
    },
)  # fmt: skip
