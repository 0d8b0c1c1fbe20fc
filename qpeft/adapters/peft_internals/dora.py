"""DoRA with generated magnitudes: W' = m * (W0 + s B A) / ||W0 + s B A||, the norm of each output or each input."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.dora import DoraLinearLayer
from peft.tuners.lora.variants import DoraLinearVariant
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn

from qpeft.adapters.generated import WeightSource


class GeneratedMagnitude(DoraLinearLayer):  # type: ignore[misc]  # peft is untyped
    """Stands where peft keeps the trainable magnitudes of a layer.

    Args:
        source: Where the generated numbers come from.
        layer: Name of the target layer.
        start: ||W0|| of each output or input, from which the generated numbers g start; None if they are the magnitudes
            themselves: m = g.
        relative: Whether m = ||W0|| (1 + g); else m = ||W0|| + g.
        fan_in_fan_out: Whether the base weight is stored (in, out), as Conv1D's is.
        axis: The axis of a weight (out, in) that the norm is taken over: 1 for a norm of each output, 0 of each input.
    """

    start: Tensor | None

    def __init__(
        self, source: WeightSource, layer: str, start: Tensor | None, relative: bool, fan_in_fan_out: bool, axis: int
    ) -> None:
        super().__init__(fan_in_fan_out)
        self.source, self.layer, self.relative, self.axis = source, layer, relative, axis
        self.register_buffer("start", start, persistent=False)

    @property
    def weight(self) -> Tensor:
        generated: Tensor = self.source[self.layer]["lora_magnitude_vector"]
        if self.start is None:
            return generated
        return self.start * (1 + generated) if self.relative else self.start + generated

    def get_weight_norm(
        self, weight: Tensor, lora_weight: Tensor, scaling: float, adapter_name: str | None = None
    ) -> Tensor:
        """||W0 + s B A||, (out,) or (in,)."""
        updated = _transposed(weight, self.fan_in_fan_out) + scaling * lora_weight
        return _nonzero(torch.linalg.norm(updated, dim=self.axis).to(weight.dtype))

    def forward(
        self, x: Tensor, *, lora_A: Any, lora_B: Any, scaling: float, base_layer: Any,
        base_result: Tensor | None = None, adapter_name: str = "default",
    ) -> Tensor:  # fmt: skip
        """What is added to the base layer's output, (..., out_features); as peft's, but it can be compiled."""
        weight = _base_weight(base_layer).to(x.dtype)
        lora_weight = self.get_lora_weight(lora_A=lora_A, lora_B=lora_B, adapter_name=adapter_name).to(x.dtype).detach()
        # The norm gets no gradient, as in DoRA (arXiv 2402.09353, section 4.3).
        factor = (self.weight / self.get_weight_norm(weight, lora_weight, scaling).detach()).view(1, -1)
        if base_result is None:
            base_result = nn.functional.linear(x, _transposed(weight, self.fan_in_fan_out))
        elif base_layer.bias is not None:
            base_result = base_result - base_layer.bias
        update: Tensor = lora_B(lora_A(x))
        return (factor - 1) * base_result + factor * update * scaling


class InputDoraVariant(DoraLinearVariant):  # type: ignore[misc]  # peft is untyped
    """DoRA whose norms and magnitudes are one for each input (arXiv 2410.09846, eq. 10): W' x = (W0 + s B A)(m/n * x).

    peft's own has one for each output; its `init` serves both, as the magnitudes are put in place afterwards. Dropout
    acts on the update alone; peft's lets the change of the base term see it too.
    """

    @staticmethod
    def _factor(module: Any, adapter: str, norm: Tensor) -> Tensor:
        """The factor m / n in the shape that multiplies the stored weight."""
        factor: Tensor = _transposed((module.lora_magnitude_vector[adapter].weight / norm).view(1, -1), _stored(module))
        return factor

    @staticmethod
    def merge_safe(module: Any, active_adapter: str, orig_weight: Tensor) -> Tensor:
        delta = module.get_delta_weight(active_adapter)
        with module._unmerged_base_weight(safe_merge=True) as base:
            norm = module.lora_magnitude_vector[active_adapter].get_weight_norm(
                base, _transposed(delta, _stored(module)), scaling=1
            )
            # As in `forward`, an adapter adds what it changes in the base weight, whatever else is merged.
            change = InputDoraVariant._factor(module, active_adapter, norm) * (base + delta) - base
        module._cache_store(f"{active_adapter}-change", change.detach())
        merged: Tensor = dequantize_module_weight(module.get_base_layer()) + change
        return merged.to(orig_weight.dtype)

    @staticmethod
    def merge_unsafe(module: Any, active_adapter: str, orig_weight: Tensor) -> None:
        orig_weight.data = InputDoraVariant.merge_safe(module, active_adapter, orig_weight)

    @staticmethod
    def unmerge(module: Any, active_adapter: str, orig_weight: Tensor) -> Tensor:
        restored: Tensor = orig_weight.data - module._cache_pop(f"{active_adapter}-change")
        return restored.to(orig_weight.dtype)

    @staticmethod
    def forward(module: Any, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any) -> Tensor:
        lora_A, lora_B = module.lora_A[active_adapter], module.lora_B[active_adapter]
        magnitude, scaling = module.lora_magnitude_vector[active_adapter], module.scaling[active_adapter]
        weight = _base_weight(module.get_base_layer()).to(x.dtype)
        lora_weight = magnitude.get_lora_weight(lora_A=lora_A, lora_B=lora_B).to(x.dtype).detach()
        # The norm gets no gradient, as in DoRA (arXiv 2402.09353, section 4.3).
        norm = magnitude.get_weight_norm(weight, lora_weight, scaling).detach()
        factor = magnitude.weight / norm
        base = nn.functional.linear(x * (factor - 1), _transposed(weight, _stored(module)))
        update: Tensor = lora_B(lora_A(module.lora_dropout[active_adapter](x) * factor)) * scaling
        return result + base.to(result.dtype) + update.to(result.dtype)


def _nonzero(norm: Tensor) -> Tensor:
    """Norms of weights that are zero (rows of padding tokens, say) as the smallest number: m / n is then finite."""
    return norm.clamp_min(torch.finfo(norm.dtype).tiny)


def _stored(module: Any) -> bool:
    return bool(module.fan_in_fan_out)


def _transposed(weight: Tensor, stored: bool) -> Tensor:
    """As PEFT's `transpose`, which makes a parameter of a parameter: that cannot be compiled."""
    return weight.T if stored else weight


def _base_weight(layer: nn.Module) -> Tensor:
    """The weight, dequantised if it is not a plain one; for those, peft asks what a compiler cannot trace."""
    weight = getattr(layer, "weight", None)
    if type(weight) is nn.Parameter:
        return weight
    dequantised: Tensor = dequantize_module_weight(layer)
    return dequantised


def generate_magnitude(
    layer: LoraLayer, adapter_name: str, source: WeightSource, name: str, *, relative: bool, of_inputs: bool,
    from_norm: bool,
) -> None:  # fmt: skip
    """Puts generated magnitudes into a layer that peft has prepared for DoRA; see `GeneratedMagnitude`."""
    axis = 0 if of_inputs else 1
    fan_in_fan_out = layer.lora_magnitude_vector[adapter_name].fan_in_fan_out
    if of_inputs:
        layer.lora_variant[adapter_name] = InputDoraVariant()
    start = None
    if from_norm:
        # Of the base weight, as B is zero; not what peft prepared, which has no numbers under low_cpu_mem_usage.
        weight = _transposed(dequantize_module_weight(layer.get_base_layer()), fan_in_fan_out)
        start = _nonzero(torch.linalg.norm(weight.detach().float(), dim=axis))
    layer.lora_magnitude_vector[adapter_name] = GeneratedMagnitude(source, name, start, relative, fan_in_fan_out, axis)
