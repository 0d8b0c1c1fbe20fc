"""The QPA generator: basis probabilities of a circuit, mapped to a vector of adapter weights.

    angles --engine--> p_i --transform--> f_i ;  row i = [ bits of i as +-1 , f_i ] --mapping network--> chunk i

The chunks are laid end to end, cut to the target size, and centred (Quantum Parameter Adaptation, arXiv 2410.09846,
eqs. 5 to 8). Invariant: the vector has exactly `target_size` numbers of mean zero, and with `zero_last` it starts as
zero.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qpeft.generators.mapping import MappingNetwork
from qpeft.generators.saved import state_tensors
from qpeft.generators.sources import CircuitSource, basis_labels, build_source, choose_sample
from qpeft.generators.spec import QPASpec
from qpeft.qcircuits import Engine, StatevectorEngine
from qpeft.qcircuits.memory import require_bytes


class QPAGenerator(nn.Module):
    """Generates `spec.target_size` numbers from the circuit's angles and the mapping network's weights.

    An engine that draws at random draws one sample for each state of the parameters: the same trained numbers give the
    same vector, however often, in whichever process and after whatever saving and loading; every optimiser step draws
    anew.

    Args:
        spec: Sizes and settings.
        engine: Runs the circuit; exact simulation by default.

    Raises:
        EngineError: The engine cannot run the circuit, or there is too little memory.

    Example:
        >>> generator = QPAGenerator(QPASpec(target_size=1000, chunk_size=100))
        >>> generator.spec.num_chunks, generator.spec.num_qubits
        (10, 4)
        >>> generator().shape
        torch.Size([1000])
        >>> sum(p.numel() for p in generator.parameters()) == generator.spec.num_parameters
        True
    """

    labels: Tensor

    def __init__(self, spec: QPASpec, engine: Engine | None = None) -> None:
        super().__init__()
        self.spec, self.engine = spec, engine or StatevectorEngine()
        if spec.uses_circuit:
            self.engine.check(spec.circuit)
        _require_memory(spec)
        self.source = build_source(spec, self.engine)
        self.mapping = MappingNetwork(spec.mapping_widths, spec.activation)
        self.register_buffer("labels", basis_labels(spec.num_chunks, spec.num_qubits), persistent=False)
        if spec.zero_last:
            nn.init.zeros_(self.mapping.last.weight)
            nn.init.zeros_(self.mapping.last.bias)

    def chunks(self) -> Tensor:
        """The mapping network's output, (n_ch, n_mlp), before it is cut and centred."""
        if self.source is None:
            return self.mapping(self.labels)  # type: ignore[no-any-return]
        features = self._features()
        return self.mapping(torch.cat([self.labels.to(features.dtype), features[:, None]], dim=1))  # type: ignore[no-any-return]

    def _features(self) -> Tensor:
        """What the source gives, (n_ch,)."""
        assert self.source is not None
        if torch.compiler.is_compiling():
            if isinstance(self.source, CircuitSource):
                return self.source.traced(self._state())
        else:
            self.choose_sample()
        return self.source()  # type: ignore[no-any-return]

    def _state(self) -> list[Tensor]:
        return state_tensors(self)

    def choose_sample(self) -> None:
        """Makes the engine's next sample the one of the parameters as they are; nothing for an engine that has none."""
        choose_sample(self.engine, self._state())

    def forward(self) -> Tensor:
        """The generated vector, (target_size,)."""
        vector = self.chunks().reshape(-1)[: self.spec.target_size]
        return vector - vector.mean()


def _require_memory(spec: QPASpec) -> None:
    """Refuses sizes that cannot fit before anything is built; the engine checks what the circuit needs."""
    cpu = torch.device("cpu")
    labels = 2 * 8 * spec.num_qubits  # int64, while they are made
    activations = 3 * 4 * sum(spec.mapping_widths)  # float32: value, gradient, one temporary
    parameters = 4 * 4 * spec.num_parameters  # float32: value, gradient, and two moments of Adam
    require_bytes(
        spec.num_chunks * (labels + activations) + parameters, cpu,
        f"{spec.num_chunks:,} chunks of {spec.chunk_size:,} weights", "Use a larger chunk size or fewer targets",
    )  # fmt: skip
