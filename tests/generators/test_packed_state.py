"""Saved states against the quantiser of training, torch's loading and peft's."""

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save, save_file
from torch import nn

from qpeft.adapters import QPAConfig
from qpeft.errors import ConfigError
from qpeft.generators.packed_state import latent_state, load_latent_state, names_of_any_length, pack_on_save
from qpeft.generators.packing import Packed, unpack
from qpeft.generators.quantization import QuantizationAware
from tests.tiny_models import IDS, gpt2, shake

PARTS = ("codes", "scale", "zero", "bits")


class Numbers(nn.Module):
    """Trained numbers on several levels, of which some are packed."""

    def __init__(self, *shape, seed=0, scale=1.0):
        super().__init__()
        draws = torch.Generator().manual_seed(seed)
        spread = torch.randn(*shape[:-1], 1, generator=draws).exp()  # groups of unlike range
        self.own = nn.Parameter(scale * spread * torch.randn(shape, generator=draws))
        self.part = nn.Module()
        self.part.deep = nn.Parameter(torch.randn(130, generator=draws))
        self.plain = nn.Parameter(torch.randn(3, generator=draws))


def packed_numbers(*shape, bits=4, group=32, kappa=0.0, **options):
    module = Numbers(*shape, **options)
    return module, pack_on_save(module, ["own", "part.deep"], bits, group, kappa)


def parameters(module):
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


settings = pytest.mark.parametrize(
    ("bits", "group", "kappa"), [*((n, g, 0.0) for n in range(1, 9) for g in (32, 128)), (3, 32, 1.0), (2, 16, 4.0)]
)


@settings
def test_a_state_gives_what_training_saw_and_saves_again_the_same(bits, group, kappa, tmp_path):
    module, _ = packed_numbers(24, 32, bits=bits, group=group, kappa=kappa)
    latent = parameters(module)
    expected = {name: QuantizationAware(bits, group, kappa)(latent[name]) for name in ("own", "part.deep")}
    state = module.state_dict()
    assert set(state) == {"plain", *(f"{name}.{part}" for name in expected for part in PARTS)}
    save_file(state, tmp_path / "state.safetensors")
    other, packed = packed_numbers(24, 32, bits=bits, group=group, kappa=kappa, seed=1)
    assert str(other.load_state_dict(load_file(tmp_path / "state.safetensors"))) == "<All keys matched successfully>"
    assert_same(parameters(other), {**expected, "plain": latent["plain"]})
    assert_same(packed.quantized(parameters(other)), parameters(other))  # used as they are
    assert save(other.state_dict()) == (tmp_path / "state.safetensors").read_bytes()
    assert_same(parameters(module), latent)  # saving changes nothing


@given(
    st.integers(1, 8), st.integers(1, 40), st.sampled_from([0.0, 0.5, 3.0]), st.sampled_from([1e-7, 1e-3, 1.0, 1e3]),
    st.integers(0, 99),
)  # fmt: skip
def test_saved_again_the_same_at_any_size_of_numbers(bits, group, kappa, scale, seed):
    module, _ = packed_numbers(3, 40, bits=bits, group=group, kappa=kappa, scale=scale, seed=seed)
    other, _ = packed_numbers(3, 40, bits=bits, group=group, kappa=kappa)
    other.load_state_dict(module.state_dict())
    assert save(other.state_dict()) == save(module.state_dict())


@pytest.mark.parametrize(("bits", "kappa", "scale"), [(8, 0.0, 1e-3), (2, 1.0, 1.0)])
def test_quantising_twice_is_another_thing(bits, kappa, scale):
    """Else nothing had to be remembered."""
    module, packed = packed_numbers(24, 32, bits=bits, kappa=kappa, scale=scale, seed=1)
    module.load_state_dict(module.state_dict())
    values = module.own.detach()
    twice = QuantizationAware(bits, 32, kappa)(values)
    assert not torch.equal(twice, values)
    assert torch.equal(packed.quantized({"own": values})["own"], values)
    moved = values.clone()
    moved[0, 0] += 1
    assert torch.equal(packed.quantized({"own": moved})["own"], QuantizationAware(bits, 32, kappa)(moved))
    assert packed.quantized({"plain": values})["plain"] is values


@pytest.mark.parametrize("group", [32, 128])
@pytest.mark.parametrize("bits", range(1, 9))
def test_size_on_disk_is_the_papers(bits, group, tmp_path):
    module = nn.Linear(1024, 48, bias=False)
    pack_on_save(module, ["weight"], bits, group)
    save_file(module.state_dict(), tmp_path / "state.safetensors")
    raw = (tmp_path / "state.safetensors").read_bytes()
    data = len(raw) - 8 - int.from_bytes(raw[:8], "little")
    assert 8 * (data - 1) == module.weight.numel() * (bits + 32 / group)  # one byte says how many bits
    assert 8 * len(raw) / module.weight.numel() == pytest.approx(bits + 32 / group, abs=0.1)  # with the header


def test_the_gradient_passes_through_loaded_numbers_too():
    module, packed = packed_numbers(2, 32)
    factor = torch.linspace(-1, 1, 64).view(2, 32)
    for _ in range(2):
        (gradient,) = torch.autograd.grad((factor * packed.quantized({"own": module.own})["own"]).sum(), module.own)
        assert torch.equal(gradient, factor)
        module.load_state_dict(module.state_dict())


@pytest.mark.parametrize("make", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies_pack_for_themselves(make):
    first, _ = packed_numbers(2, 32, kappa=2.0)
    first.load_state_dict(first.state_dict())
    saved = save(first.state_dict())
    other = make(first)
    assert save(other.state_dict()) == saved
    fresh, _ = packed_numbers(2, 32, kappa=2.0, seed=1)
    other.load_state_dict(fresh.state_dict())
    assert save(other.state_dict()) == save(fresh.state_dict()) != saved
    assert save(first.state_dict()) == saved


def test_double_precision_and_casts():
    module, _ = packed_numbers(4, 32)
    module.double()
    state = module.state_dict()
    other, packed = packed_numbers(4, 32, seed=1)
    other.double().load_state_dict(state)
    assert other.own.dtype == torch.float64
    assert torch.equal(other.own, QuantizationAware(4, 32)(module.own))
    other.float()
    assert_same(other.state_dict(), {**state, "plain": state["plain"].float()})
    assert packed.quantized({"own": other.own})["own"].dtype == torch.float32


# ---- loading what is not whole


def test_missing_tensors_are_named_and_change_nothing():
    module, _ = packed_numbers(2, 32)
    other, _ = packed_numbers(2, 32, seed=1)
    state = module.state_dict()
    for name, parts in (("own", ["scale"]), ("part.deep", PARTS)):
        gone = [f"{name}.{part}" for part in parts]
        before = parameters(other)[name]
        rest = {key: tensor for key, tensor in state.items() if key not in gone}
        found = other.load_state_dict(rest, strict=False)
        assert (found.missing_keys, found.unexpected_keys) == (gone, [])
        with pytest.raises(RuntimeError, match=f'Missing key.*"{gone[0]}"'):
            other.load_state_dict(rest)
        assert torch.equal(other.get_parameter(name), before)


def test_tensors_that_do_not_fit_are_refused():
    other, _ = packed_numbers(2, 32, bits=3)
    before = parameters(other)
    for shape, group in (((3, 32), 32), ((2, 32), 16)):
        with pytest.raises(ConfigError, match=r"own: packed scale, zero and bits have .* numbers"):
            other.load_state_dict(packed_numbers(*shape, group=group)[0].state_dict())
    assert torch.equal(other.own, before["own"])


def test_numbers_in_full_precision_are_taken():
    source, (module, packed) = Numbers(2, 32), packed_numbers(2, 32, seed=1)
    module.load_state_dict(module.state_dict())
    module.load_state_dict(source.state_dict())
    assert_same(parameters(module), parameters(source))
    assert torch.equal(packed.quantized({"own": module.own})["own"], QuantizationAware(4, 32)(source.own))
    both = {**source.state_dict(), **module.state_dict()}
    assert set(module.load_state_dict(both, strict=False).unexpected_keys) == set(both) - set(source.state_dict())


def test_a_state_from_another_number_of_bits_is_taken_as_it_is():
    (source, _), (module, packed) = packed_numbers(2, 32, bits=8), packed_numbers(2, 32, bits=2)
    module.load_state_dict(source.state_dict())
    assert torch.equal(module.own, QuantizationAware(8, 32)(source.own))
    assert torch.equal(packed.quantized({"own": module.own})["own"], module.own)


# ---- numbers that train


def test_training_goes_on_exactly_from_the_latent_numbers(tmp_path):
    tree = nn.ModuleDict({"bank": packed_numbers(2, 32)[0], "other": nn.Linear(2, 2)})
    latent = latent_state(tree)
    assert_same(latent, {f"bank.{name}": parameters(tree["bank"])[name] for name in ("own", "part.deep")})
    save_file(latent, tmp_path / "latent.safetensors")
    twin = nn.ModuleDict({"bank": packed_numbers(2, 32, seed=1)[0], "other": nn.Linear(2, 2)})
    twin.load_state_dict(tree.state_dict())
    assert not torch.equal(twin["bank"].own, tree["bank"].own)
    load_latent_state(twin, load_file(tmp_path / "latent.safetensors"))
    assert_same(parameters(twin), parameters(tree))
    assert save(twin.state_dict()) == save(tree.state_dict())
    assert latent_state(nn.Linear(2, 2)) == {}


def test_latent_numbers_of_another_module_are_refused():
    module, _ = packed_numbers(2, 32)
    latent = latent_state(module)
    with pytest.raises(ConfigError, match=r"part.deep is missing, not \(130,\)"):
        load_latent_state(module, {"own": latent["own"]})
    with pytest.raises(ConfigError, match=r"own is \(64,\), not \(2, 32\); more is \(1,\), not there"):
        load_latent_state(module, {**latent, "own": latent["own"].flatten(), "more": torch.zeros(1)})


# ---- settings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ["weight", "wight"]}, r"Linear has no parameter 'wight'; it has weight, bias"),
        ({"bits": 9}, "bits is 9"),
        ({"group": 0}, "group"),
        ({"kappa": -1.0}, "kappa is -1.0"),
        ({"names": ["bias"], "group": 8}, "a quantisation group of 8 is larger than bias, which has 4 numbers"),
    ],
)
def test_bad_settings_are_named(options, message):
    module = nn.Linear(4, 4)
    with pytest.raises(ConfigError, match=message):
        pack_on_save(module, **{"names": ["weight"], "bits": 4, "group": 4, **options})
    assert set(module.state_dict()) == {"weight", "bias"}


def test_packing_twice_is_refused():
    module, _ = packed_numbers(2, 32)
    with pytest.raises(ConfigError, match="this Numbers packs parameters already"):
        pack_on_save(module, ["plain"], 4, 1)


def test_numbers_that_cannot_be_saved_are_refused():
    module, _ = packed_numbers(2, 32, scale=1e6)
    with pytest.raises(ConfigError, match="outside what FP16 holds"):
        module.state_dict()


@pytest.mark.parametrize("kappa", [0.0, 1.0])
def test_without_memory_it_has_the_shapes_that_do_not_depend_on_numbers(kappa):
    module, _ = packed_numbers(2, 32, kappa=kappa)
    shell = copy.deepcopy(module).to("meta")
    free = {"own.codes", "part.deep.codes"} if kappa else set()
    assert names_of_any_length(module) == free
    state = module.state_dict()
    for name, tensor in shell.state_dict().items():
        assert tensor.is_meta and tensor.dtype == state[name].dtype
        assert tensor.numel() == 0 if name in free else tensor.shape == state[name].shape
    shell.load_state_dict(state, assign=True)
    assert save(shell.state_dict()) == save(state)
    assert isinstance(shell.own, nn.Parameter) and shell.own.requires_grad


# ---- within peft


def adapted(kappa, seed=0):
    """A PEFT model whose bank packs the weights of its mapping network."""
    torch.manual_seed(seed)
    model = shake(get_peft_model(gpt2(), QPAConfig(target_modules=["c_attn"], r=2, reps=2, chunk_size=32)), seed=seed)
    bank = model.base_model.bank()
    pack_on_save(bank, [name for name, p in bank.named_parameters() if p.ndim == 2], 4, 8, kappa)
    return model.eval()


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("kappa", [0.0, 2.0])
def test_peft_saves_and_loads_packed_numbers(kappa):
    first, other = adapted(kappa), adapted(kappa, seed=1)
    state = get_peft_model_state_dict(first)
    packed = [name for name in state if name.endswith(".codes")]
    assert packed and all(name.startswith("base_model.lora_bank.generators.0.") for name in packed)
    set_peft_model_state_dict(other, state)
    assert save(get_peft_model_state_dict(other)) == save(state)
    bank = other.base_model.bank()
    for name in packed:
        key = name.removesuffix(".codes")
        values = bank.get_parameter(key.removeprefix("base_model.lora_bank."))
        stored = Packed(*(state[f"{key}.{part}"] for part in PARTS))
        assert torch.equal(values, unpack(stored, values.shape, 8))
    with torch.no_grad():
        for name, parameter in first.base_model.bank().named_parameters():
            parameter.copy_(bank.get_parameter(name))
    assert torch.equal(logits(other), logits(first))


@pytest.mark.parametrize("kappa", [0.0, 2.0])
@pytest.mark.parametrize("part", PARTS)
def test_peft_is_refused_what_is_not_whole(kappa, part):
    model = adapted(kappa)
    state = get_peft_model_state_dict(model)
    name = next(name for name in state if name.endswith(f".{part}"))
    with pytest.raises(ConfigError, match=f"{part} is missing"):
        set_peft_model_state_dict(model, {key: tensor for key, tensor in state.items() if key != name})
    cut = {**state, name: state[name][:-1]}
    with pytest.raises((ConfigError, RuntimeError), match=rf"{part} is \(\d+,\), not|packed codes have"):
        set_peft_model_state_dict(model, cut)


def test_a_buffer_is_packed_too_and_is_no_latent_number():
    module, other = (nn.Linear(8, 8, bias=False) for _ in range(2))
    for one in (module, other):
        one.register_buffer("start", torch.randn(40))
        packed = pack_on_save(one, ["start"], bits=3, group=8)
    state = module.state_dict()
    assert sorted(state) == [*(f"start.{part}" for part in sorted(PARTS)), "weight"]
    assert latent_state(module) == {}
    other.load_state_dict(state)
    assert torch.equal(other.start, QuantizationAware(3, 8)(module.start))
    assert torch.equal(packed.quantized({"start": other.start})["start"], other.start)
