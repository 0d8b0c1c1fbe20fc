"""IBM's devices by name: the calibration that ships with qiskit-ibm-runtime, or the device itself."""

from __future__ import annotations

import inspect
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from qpeft.errors import ConfigError, EngineError, unknown_name
from qpeft.extras import require

if TYPE_CHECKING:
    from qiskit.providers import BackendV2


@lru_cache(maxsize=16)
def snapshot(name: str) -> BackendV2:
    """The recorded calibration of an IBM device, for use without an account or a network.

    The same name gives the same object, so that a circuit is transpiled for it once.

    Args:
        name: The device's name, `ibm_torino`, or the snapshot's, `fake_torino`.

    Raises:
        ConfigError: No snapshot of that name ships with qiskit-ibm-runtime; the message lists the nearest names.
        MissingExtraError: qiskit-ibm-runtime is not installed.

    Example:
        >>> snapshot("ibm_torino").num_qubits
        133
    """
    classes = _snapshots()
    device = "ibm_" + name.removeprefix("ibm_").removeprefix("fake_")
    if device not in classes or not name.startswith(("ibm_", "fake_")):
        raise ConfigError(unknown_name("device", name, sorted(classes)))
    return classes[device]()


def snapshot_names() -> list[str]:
    """The devices whose calibration snapshot is at hand; raises `MissingExtraError` without qiskit-ibm-runtime."""
    return sorted(_snapshots())


def live(name: str) -> BackendV2:
    """The device itself, as IBM's service reports it to the saved account.

    Raises:
        ConfigError: There is no saved account; the message says how to save one.
        EngineError: The service cannot be reached or has no such device.
        MissingExtraError: qiskit-ibm-runtime is not installed.
    """
    runtime = require("qiskit_ibm_runtime", "ibm", f"the device {name}")
    accounts = require("qiskit_ibm_runtime.accounts", "ibm", f"the device {name}")
    offline = f"Offline, use the recorded calibration: qpeft.noise.devices.snapshot({name!r})"
    try:
        return runtime.QiskitRuntimeService().backend(name)
    except accounts.AccountNotFoundError as error:
        raise ConfigError(
            f"the device {name} needs an IBM Quantum account, and none is saved ({error}). Save one with "
            "qiskit_ibm_runtime.QiskitRuntimeService.save_account(token=..., instance=...), from "
            f"https://quantum.cloud.ibm.com. {offline}"
        ) from error
    except Exception as error:  # whatever a network and a service can raise
        raise EngineError(f"IBM's service does not give {name}: {type(error).__name__}: {error}. {offline}") from error


@lru_cache(maxsize=1)
def _snapshots() -> dict[str, type[BackendV2]]:
    provider = require("qiskit_ibm_runtime.fake_provider", "ibm", "the calibration of an IBM device")
    return {
        member.backend_name.replace("fake_", "ibm_", 1): member
        for member in vars(provider).values() if inspect.isclass(member) and hasattr(member, "backend_name")
    }  # fmt: skip


def calibration_date(backend: BackendV2) -> str | None:
    """The day of a back-end's calibration, e.g. 2025-02-26; None if it does not say."""
    properties = getattr(backend, "properties", lambda: None)()
    moment = getattr(properties, "last_update_date", None)
    return moment.date().isoformat() if isinstance(moment, datetime) else None
