"""The numbers that a module saves."""

from torch import Tensor, nn


def state_tensors(module: nn.Module) -> list[Tensor]:
    """What `module.state_dict()` holds, in its order.

    Not by `state_dict()` itself: FSDP takes that for a sign to shard the parameters again, in the middle of a forward
    pass too.
    """
    return [
        tensor.detach()
        for part in module.modules()
        for name, tensor in (*part._parameters.items(), *part._buffers.items())
        if tensor is not None and name not in part._non_persistent_buffers_set
    ]
