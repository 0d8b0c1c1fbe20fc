"""Two ranks that each see half of a batch have the gradients of one process that sees all of it."""

from functools import cache

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from tests.distributed.cases import BASES, CASES, SAMPLING, Case, adapted, batch, loss_of, step
from tests.distributed.launching import launch
from tests.tiny_models import logits

pytestmark = pytest.mark.slow
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """Reads what the ranks wrote of a case, after one launch for all cases."""
    folder = tmp_path_factory.mktemp("ranks")
    launch(
        "torch.distributed.run",
        "--nproc-per-node",
        2,
        "--standalone",
        "-m",
        "tests.distributed.gradients_worker",
        folder,
    )

    def read(case):
        errors = [file.read_text(encoding="utf8") for file in sorted(folder.glob(f"{case.name}.?.error"))]
        assert not errors, errors[0]
        return folder / case.name, [load_file(folder / f"{case.name}.{rank}.safetensors") for rank in (0, 1)]

    return read


@cache
def single(base, engine, method="qpa"):
    """One process: gradients of the whole batch, and the logits after a step along them."""
    model = adapted(Case("single", base, engine, method=method))
    loss_of(model, batch()).backward()
    gradients = {f"gradient.{name}": p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    step(model)
    return gradients, logits(model.eval(), input_ids=batch())


@each_case
def test_gradients_and_the_step_are_those_of_one_process(case, outcome):
    gradients, after = single(case.base, case.engine, case.method)
    assert all(gradient.abs().max() > 1e-6 for gradient in gradients.values())
    for found in outcome(case)[1]:
        torch.testing.assert_close(found.pop("logits"), after, rtol=0, atol=1e-10)
        torch.testing.assert_close(found, gradients, rtol=0, atol=1e-12)


@each_case
def test_ranks_hold_the_same_numbers(case, outcome):
    first, second = outcome(case)[1]
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@each_case
def test_what_rank_0_saves_is_loaded_in_one_process(case, outcome):
    folder, _ = outcome(case)
    loaded = PeftModel.from_pretrained(BASES[case.base][0](), folder).eval()
    _, after = single(case.base, case.engine, case.method)
    assert (folder / "adapter_model.safetensors").stat().st_size < 20_000  # no base weights
    torch.testing.assert_close(logits(loaded.double(), input_ids=batch()), after, rtol=0, atol=1e-5)


@pytest.mark.parametrize("base", BASES)
def test_sampled_weights_are_not_the_exact_ones(base):
    """Else the cases of the sampling engine would test nothing of their own."""
    assert not torch.allclose(single(base, SAMPLING)[1], single(base, "exact")[1], rtol=0, atol=1e-6)
