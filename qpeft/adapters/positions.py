"""Which positions of the sequence a layer sees in the current forward pass of its model."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.modeling_utils import slice_logits_to_keep

from qpeft.errors import ConfigError


class Positions:
    """Learns from a model's arguments where in the sequence it is, which decoding with a cache hides from its layers.

    It is no module, so that layers can share it.

    Args:
        model: The model whose passes are followed.
    """

    def __init__(self, model: nn.Module) -> None:
        self._arguments = tuple(inspect.signature(model.forward).parameters)
        self._checkpointed = [m for m in model.modules() if hasattr(m, "gradient_checkpointing")]
        self._given: Tensor | None = None  # (batch, length), every position of the pass
        self._explicit = False  # whether the caller gave them
        self._kept: int | Tensor = 0  # transformers' `logits_to_keep`

    def follow(self, model: nn.Module) -> tuple[RemovableHandle, ...]:
        """Registers the hooks. They are bound methods, since lambdas do not survive deepcopy."""
        return (
            model.register_forward_pre_hook(self._begin, prepend=True, with_kwargs=True),
            model.register_forward_hook(self._end, always_call=True),
        )

    def of(self, x: Tensor, is_head: bool) -> Tensor:
        """The positions of a layer's input, (batch, length) or (rows).

        Outside a pass of the followed model, and if that was given no tokens, positions count from 0 along the last
        but one axis.

        Args:
            x: (batch, length, features), or (rows, features) with the same rows in one axis.
            is_head: Whether the layer is the output head, whose input may be cut to the logits asked for.

        Raises:
            ConfigError: The input's rows are not the positions of the pass, or will be computed again when its
                positions are forgotten.
        """
        if self._given is None:
            return torch.arange(x.shape[-2], device=x.device).expand(x.shape[:-1])
        if not is_head and (self._explicit or x.dim() == 2) and self._is_checkpointed():
            raise ConfigError(
                "gradient checkpointing computes a layer again when the positions of its pass are no longer known; "
                "put the additive prefix on the output head, or train without checkpointing"
            )
        candidates = [self._given]
        if is_head:  # a model that does not know `logits_to_keep` hands its head every position
            candidates.insert(0, slice_logits_to_keep(self._given.unsqueeze(-1), self._kept).squeeze(-1))
        for positions in candidates:
            rows = positions.reshape(-1) if x.dim() == 2 else positions
            if rows.shape == x.shape[:-1]:
                return rows.to(x.device)
        raise ConfigError(
            f"a layer with an additive prefix was given an input of shape {tuple(x.shape)} in a pass over positions "
            f"of shape {tuple(self._given.shape)}; adapt a layer that sees every token once"
        )

    def _is_checkpointed(self) -> bool:
        return torch.is_grad_enabled() and any(m.gradient_checkpointing and m.training for m in self._checkpointed)

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = dict(zip(self._arguments, args, strict=False)) | kwargs
        tokens, embedded = given.get("input_ids"), given.get("inputs_embeds")
        if tokens is None and embedded is not None:
            tokens = embedded[..., 0]  # for its shape and device
        self._given = given.get("position_ids")
        self._explicit = self._given is not None
        self._kept = given.get("logits_to_keep", 0)
        if tokens is None:
            return
        if self._given is None:
            cache = given.get("past_key_values")
            start = 0 if cache is None else cache.get_seq_length()
            self._given = torch.arange(tokens.shape[-1], device=tokens.device) + start
        if self._given.dim() <= 2:
            # Models broadcast one row of positions; a layer whose input was flattened needs all rows.
            self._given = self._given.expand(tokens.shape[:-1].numel(), tokens.shape[-1])

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        self._given, self._explicit, self._kept = None, False, 0
