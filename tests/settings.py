"""Settings of a run by name, whichever section they stand in."""

from dataclasses import fields

from qpeft.frame_settings import FrameSettings
from qpeft.training.adapter_options import AdapterOptions, CarrierOptions, GeneratorOptions

SECTIONS = {"adapter": AdapterOptions, "carrier": CarrierOptions, "generator": GeneratorOptions, "frame": FrameSettings}


def adapter_settings(**settings):
    """The sections of `TrainConfig` that describe an adapter."""
    names = {section: {field.name for field in fields(kind)} for section, kind in SECTIONS.items()}
    unknown = settings.keys() - set().union(*names.values())
    assert not unknown, unknown
    return {
        section: kind(**{name: value for name, value in settings.items() if name in names[section]})
        for section, kind in SECTIONS.items()
    }
