"""PEFT configs that remember what their settings came to when their adapter was built."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from qpeft.adapters.card import CardConfig
from qpeft.adapters.peft_internals.loading import check_weights_file
from qpeft.errors import ConfigError
from qpeft.options import is_whole, option

FORMAT_VERSION = 1
SAVED = "saved"  # the mark of a `resolved` that was read from a file
CUSTOM = "custom"  # how a circuit or function of the user's own is named in a file


@dataclass
class BuiltConfig(CardConfig):
    """Mixed in before a peft config, which it keeps from coming out as another adapter when it is read from a file.

    Such a config calls `check_built()` in its `__post_init__`, and fills `resolved` in when its adapter is built.
    """

    resolved: dict[str, Any] | None = option(None, "filled in when the adapter is built: sizes, circuits, checksum")
    format_version: int = option(FORMAT_VERSION, "version of this file's format")

    ansatz: Any = option(None, "registered ansatz, Circuit, or function (num_qubits, reps) -> Circuit; the usual one")

    exported: ClassVar[str] = "with stored weights, which need no circuit"

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, subfolder: str | None = None, **kwargs: Any) -> Any:
        """PEFT's, after a look at the weights file.

        Raises:
            ConfigError: A damaged config, or a damaged weights file beside it.
        """
        config = super().from_pretrained(pretrained_model_name_or_path, subfolder, **kwargs)  # type: ignore[misc]
        check_weights_file(Path(pretrained_model_name_or_path, subfolder or ""))
        return config

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The settings that decide what the trained numbers mean, as plain data."""

    @staticmethod
    @abstractmethod
    def is_resolved(data: Any) -> bool:
        """Whether data read from a file can be a `resolved`."""

    @property
    def ansatz_name(self) -> Any:
        """The ansatz as plain data: its name, or that it is the user's own."""
        return self.ansatz if self.ansatz is None or isinstance(self.ansatz, str) else CUSTOM

    @property
    def is_saved(self) -> bool:
        """Whether it was read from a file."""
        return bool((self.resolved or {}).get(SAVED))

    def check_built(self) -> None:
        """Checks what a damaged or hand-edited `adapter_config.json` may hold.

        Raises:
            ConfigError: A value that is not allowed, or a file of a newer format.
        """
        sound = {
            "format_version": is_whole(self.format_version),
            "resolved": self.resolved is None or self.is_resolved(self.resolved),
        }
        for name, fine in sound.items():
            if not fine:
                raise damaged(name, getattr(self, name))
        if self.format_version > FORMAT_VERSION:
            raise ConfigError(
                f"the adapter was written in format {self.format_version}; this qpeft reads up to {FORMAT_VERSION}. "
                "Install a newer qpeft"
            )

    def to_dict(self) -> dict[str, Any]:
        ansatz = self.ansatz
        try:
            self.ansatz = self.ansatz_name
            data: dict[str, Any] = super().to_dict()  # type: ignore[misc]  # of the peft config this is mixed into
        finally:
            self.ansatz = ansatz
        if self.resolved is not None:
            data["resolved"] = {**self.resolved, SAVED: True}
        return data


def damaged(name: str, value: Any) -> ConfigError:
    """The error for a field that no config can have."""
    return ConfigError(
        f"{name} is {value!r:.100}, which is no such setting; if it was read from a file, adapter_config.json is "
        "damaged: save the adapter again"
    )
