"""Run by torchrun: every case's gradients, its outputs after an optimiser step and its saved adapter, on each rank.

The cases share one process group, since starting processes takes far longer than any of them.
"""

import sys
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin, fsdp2_prepare_model
from safetensors.torch import save_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from tests.distributed.cases import CASES, Case, adapted, batch, loss_of, step, whole

ROUNDS = 2  # the second round meets weights that the first one kept


def replicate(model, case: Case):
    return DistributedDataParallel(model)


def shard(model, case: Case):
    for layer in case.layers(model):
        fully_shard(layer)
    return fully_shard(model)


def shard_as_accelerate_does(model, case: Case):
    """What `Accelerator.prepare` calls, which by itself keeps FSDP to accelerators."""
    accelerator = Accelerator(cpu=True)
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=[type(case.layers(model)[0]).__name__],
        cpu_ram_efficient_loading=not model.config.tie_word_embeddings,  # transformers cannot tie a head peft wrapped
    )  # fmt: skip
    return fsdp2_prepare_model(accelerator, model)


STRATEGIES = {"ddp": replicate, "fsdp2": shard, "accelerate": shard_as_accelerate_does}


def run(case: Case, folder: Path, rank: int, ranks: int) -> None:
    model = adapted(case)
    wrapped = STRATEGIES[case.strategy](model, case)
    inputs = batch().chunk(ranks)[rank]
    for _ in range(ROUNDS):
        wrapped.zero_grad()
        loss_of(wrapped, inputs).backward()
    found = {f"gradient.{name}": whole(p.grad) for name, p in model.named_parameters() if p.grad is not None}
    step(wrapped)
    wrapped.eval()
    with torch.no_grad():
        found["logits"] = wrapped(input_ids=batch()).logits
    save_file(found, folder / f"{case.name}.{rank}.safetensors")
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if rank == 0:
        model.save_pretrained(folder / case.name, state_dict=state)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    for case in CASES:
        try:
            run(case, folder, rank, ranks)
        except Exception:  # reported by the test of this case; the others go on
            (folder / f"{case.name}.{rank}.error").write_text(traceback.format_exc(), encoding="utf8")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
