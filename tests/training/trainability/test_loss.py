from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from qpeft import gradient_variance
from qpeft.adapters.attach import attach
from qpeft.adapters.peft_internals import bank_of
from qpeft.errors import ConfigError, RunError
from qpeft.qcircuits import CircuitBuilder, StatevectorEngine, ansatz
from qpeft.training.config import DataOptions, ModelOptions, TrainConfig
from qpeft.training.finetune import prepare
from qpeft.training.models import load_model
from qpeft.training.trainability import loss as loss_module
from qpeft.training.trainability.config import LossOptions
from qpeft.training.trainability.gradients import draw_angles
from qpeft.training.trainability.loss import ANGLES, before_head, text_losses

CIRCUIT = ansatz("ry_cnot", 3, 2)


@pytest.fixture
def options(model_folder, text_file):
    return LossOptions(model=str(model_folder), data=str(text_file), context=16, rank=2, steps="0,2")


def gradient(loss, number=1):
    return loss.gradients(StatevectorEngine(), CIRCUIT, draw_angles(CIRCUIT, number, seed=0), False)


def test_the_gradient_is_that_of_the_adapted_model(options):
    """Found with the whole model, peft's layers on it, the same angles and the same network."""
    loss, _ = text_losses(options)
    data = DataOptions(data=options.data, context=options.context)
    prepared = prepare(TrainConfig(model=ModelOptions(model=options.model), data=data))
    adapted = attach(prepared.model, loss.config(CIRCUIT)).eval()
    bank = bank_of(adapted)
    own = loss.bank(StatevectorEngine(), CIRCUIT, draw_angles(CIRCUIT, 1, seed=0)[0], 0)
    bank.load_state_dict(own.state_dict())
    logits = adapted(input_ids=prepared.train.inputs[:1]).logits[0]
    cross_entropy = F.cross_entropy(logits, prepared.train.targets[0])
    (expected,) = torch.autograd.grad(cross_entropy, bank.get_parameter(ANGLES))
    found = gradient(loss)
    assert found.abs().max() > 1e-6
    torch.testing.assert_close(found[0].float(), expected, rtol=1e-3, atol=1e-7)


def test_steps_train_before_the_gradient_is_taken(options):
    start, trained = text_losses(options)
    _, idle = text_losses(replace(options, learning_rate=1e-12))
    first = gradient(start, 2)
    torch.testing.assert_close(gradient(idle, 2), first, rtol=1e-5, atol=1e-12)
    assert not torch.allclose(gradient(trained, 2), first, rtol=0.01)
    torch.testing.assert_close(gradient(trained, 2), gradient(trained, 2), rtol=0, atol=0)
    assert (start.name, trained.name) == ("loss-0", "loss-2")


def test_the_identity_start_gives_the_angles_a_gradient_after_a_step(options):
    with pytest.raises(ConfigError, match=r"no gradient before the first step; give --steps 1"):
        replace(options, start="identity")
    (loss,) = text_losses(replace(options, start="identity", steps="1"))
    assert gradient(loss).abs().max() > 0
    assert not gradient(replace(loss, steps=0)).any()


def test_a_batch_of_initialisations_trains_each_as_torch_trains_one(options):
    loss = replace(text_losses(options)[1], steps=3)
    angles = draw_angles(CIRCUIT, 3, seed=0)
    found = loss.gradients(StatevectorEngine(), CIRCUIT, angles, False)
    for number, row in enumerate(angles):
        bank = loss.bank(StatevectorEngine(), CIRCUIT, row, number)
        optimiser = torch.optim.AdamW(bank.parameters(), lr=loss.learning_rate, weight_decay=0.0)
        for step in range(3):
            optimiser.zero_grad()
            loss.batches[1 + step % (len(loss.batches) - 1)].loss(bank()["lm_head"], 2.0).backward()
            nn.utils.clip_grad_norm_(bank.parameters(), 1.0)
            optimiser.step()
        (expected,) = torch.autograd.grad(loss.batches[0].loss(bank()["lm_head"], 2.0), bank.get_parameter(ANGLES))
        torch.testing.assert_close(found[number], expected, rtol=1e-7, atol=1e-12)


def test_the_transform_of_the_probabilities_can_be_another(options):
    loss, _ = text_losses(options)
    other = replace(loss, options=replace(options, transform="identity"))
    (spec,) = other.bank(StatevectorEngine(), CIRCUIT, draw_angles(CIRCUIT, 1, seed=0)[0], 0).specs
    assert spec.transform == "identity" and loss.config(CIRCUIT).transform == "scaled"
    assert 0 < gradient(other).abs().max() < gradient(loss).abs().max()


def test_raw_derivatives_of_other_networks_or_texts_are_refused(options, tmp_path):
    (loss, _), (other, _) = text_losses(options), text_losses(options, seed=1)
    batches = [replace(batch, targets=batch.targets.flip(0)) for batch in loss.batches]
    gradient_variance("ry_cnot", [2], [1], [loss], initialisations=2, folder=tmp_path)
    with pytest.raises(RunError, match="mapping_seed was 0, now 1"):
        gradient_variance("ry_cnot", [2], [1], [other], initialisations=2, folder=tmp_path)
    with pytest.raises(RunError, match="batches was"):
        gradient_variance("ry_cnot", [2], [1], [replace(loss, batches=batches)], initialisations=2, folder=tmp_path)


def test_losses_of_other_options_stand_side_by_side_under_other_titles(options):
    given = [*text_losses(options), *text_losses(replace(options, preset="paper"), title="paper's loss")]
    table = gradient_variance("ry_cnot", [2], [1], given, initialisations=2)
    assert [row.observable for row in table] == ["loss-0", "loss-2", "paper's loss-0", "paper's loss-2"]


def test_batches_cut_by_memory_change_no_initialisation(options, monkeypatch):
    loss, _ = text_losses(options)
    whole = gradient(loss, 3)
    monkeypatch.setattr(loss_module, "BATCH_BYTES", 1)
    torch.testing.assert_close(gradient(loss, 3), whole, rtol=1e-9, atol=1e-14)


def test_every_initialisation_has_a_network_of_its_own(options):
    loss, _ = text_losses(options)
    angles = draw_angles(CIRCUIT, 1, seed=0).expand(2, -1)
    one, two = loss.gradients(StatevectorEngine(), CIRCUIT, angles, False)
    assert not torch.allclose(one, two)


def test_the_loss_stands_in_the_table_beside_observables(options, tmp_path):
    losses = text_losses(options)
    rows = gradient_variance("ry_cnot", [2, 3], [1], ["local", *losses], initialisations=3, folder=tmp_path)
    assert [(row.qubits, row.observable) for row in rows] == [
        (n, name) for n in (2, 3) for name in ("local", "loss-0", "loss-2")
    ]  # fmt: skip
    assert all((row.two_design is None) == row.observable.startswith("loss") for row in rows)
    assert all(row.variance > 0 for row in rows)
    again = gradient_variance("ry_cnot", [2, 3], [1], ["local", *losses], initialisations=3, folder=tmp_path)
    assert again == rows


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"context": 1}, "context is 1"),
        ({"rank": 0}, "rank is 0"),
        ({"preset": "papers"}, "unknown preset 'papers'"),
        ({"transform": "tanh"}, "unknown probability transform 'tanh'"),
        ({"start": "zero"}, "start 'zero'"),
        ({"steps": "-1"}, "steps is '-1'"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
    ],
)
def test_bad_settings(given, message):
    with pytest.raises(ConfigError, match=message):
        LossOptions(**given)


def test_more_basis_states_than_weights_are_refused(options):
    loss, _ = text_losses(options)
    size = 2 * sum(loss._shape)
    most = (size - 1).bit_length()
    loss.check(CircuitBuilder(most).ry(0).build())
    assert loss.config(CircuitBuilder(most).ry(0).build()).chunk_size == 1
    with pytest.raises(ConfigError, match=f"{most + 1} qubits are too many.*at most {most} qubits"):
        gradient_variance("ry_cnot", [most + 1], [1], [loss], initialisations=2)


def test_a_text_too_short_to_train_on_is_refused(options, tmp_path):
    (tmp_path / "short.txt").write_text(
        "the cat sat on the mat and saw 1 birds.\nthe dog sat and saw 22 birds.\n", encoding="utf8"
    )
    with pytest.raises(ConfigError, match="Give a longer text"):
        text_losses(replace(options, data=str(tmp_path / "short.txt"), context=32))


def test_models_that_change_their_logits_are_refused(model_folder):
    model = load_model(ModelOptions(model=str(model_folder)))
    ids = torch.arange(5)
    before_head(model, ids, ids)
    forward = type(model).forward

    class Capped(type(model)):
        def forward(self, *given, **named):
            found = forward(self, *given, **named)
            found.logits = found.logits.tanh()
            return found

    model.__class__ = Capped
    with pytest.raises(ConfigError, match="Capped changes its logits after the output head"):
        before_head(model, ids, ids)
    model.get_output_embeddings = nn.Identity
    with pytest.raises(ConfigError, match="no linear output head"):
        before_head(model, ids, ids)
