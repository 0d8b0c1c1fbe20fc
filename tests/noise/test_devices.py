import pytest
import qiskit_ibm_runtime
from qiskit.providers import BackendV2
from qiskit_ibm_runtime import QiskitRuntimeService
from qiskit_ibm_runtime.fake_provider import FakeTorino

from qpeft.errors import ConfigError, EngineError
from qpeft.noise.devices import live, snapshot


def test_a_snapshot_by_either_name():
    device, same = snapshot("ibm_torino"), snapshot("fake_torino")
    assert isinstance(device, FakeTorino)
    assert isinstance(same, FakeTorino)
    assert isinstance(device, BackendV2)
    assert device.num_qubits == 133
    assert snapshot("ibm_torino") is device  # so that a circuit is transpiled for it once


@pytest.mark.parametrize("name", ["ibm_fez", "ibm_marrakesh", "ibm_manila", "fake_sherbrooke"])
def test_snapshots_state_errors(name):
    target = snapshot(name).target
    assert any(stated.error for stated in target["measure"].values())
    assert any(stated.error for stated in target["sx"].values())


@pytest.mark.parametrize("name", ["ibm_torinoo", "torino", "IBM_torino"])
def test_an_unknown_device_names_the_nearest(name):
    with pytest.raises(ConfigError, match=rf"unknown device '{name}'. Did you mean 'ibm_torino'"):
        snapshot(name)


def test_no_account(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("QISKIT_IBM_TOKEN", "QISKIT_IBM_CHANNEL", "QISKIT_IBM_URL", "QISKIT_IBM_INSTANCE"):
        monkeypatch.delenv(variable, raising=False)

    class NoAccount:
        def __init__(self):
            QiskitRuntimeService(filename=str(tmp_path / "accounts.json"))

    monkeypatch.setattr(qiskit_ibm_runtime, "QiskitRuntimeService", NoAccount)
    with pytest.raises(ConfigError, match=r"(?s)ibm_torino needs an IBM Quantum account.*save_account.*snapshot"):
        live("ibm_torino")


def test_a_service_that_fails(monkeypatch):
    class Service:
        def backend(self, name):
            raise ConnectionError(f"no route to {name}")

    monkeypatch.setattr(qiskit_ibm_runtime, "QiskitRuntimeService", Service)
    with pytest.raises(EngineError, match=r"does not give ibm_fez: ConnectionError: no route to ibm_fez\. Offline"):
        live("ibm_fez")


def test_the_device_itself(monkeypatch):
    class Service:
        def backend(self, name):
            return f"device {name}"

    monkeypatch.setattr(qiskit_ibm_runtime, "QiskitRuntimeService", Service)
    assert live("ibm_fez") == "device ibm_fez"
