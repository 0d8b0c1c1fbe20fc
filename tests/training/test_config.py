import math

import pytest

from qpeft.errors import ConfigError
from qpeft.options import build, leaves
from qpeft.training.config import (
    AdapterOptions,
    DataOptions,
    GeneratorOptions,
    RunOptions,
    TrainConfig,
    TrainingOptions,
)


def test_leaf_names_are_unique_so_that_flags_need_no_section():
    names = [leaf.name for leaf in leaves(TrainConfig)]
    assert len(names) == len(set(names))


def test_model_and_data_are_all_that_is_needed():
    config = build(TrainConfig, {}, {"model": "a", "data": "b"})
    assert (config.model.model, config.data.data, config.adapter.method) == ("a", "b", "qpa")


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        (TrainingOptions, {"learning_rate": math.nan}, "learning_rate is nan; it must be a finite number above 0"),
        (TrainingOptions, {"learning_rate": math.inf}, "learning_rate is inf"),
        (TrainingOptions, {"learning_rate": 0.0}, "learning_rate is 0.0"),
        (TrainingOptions, {"steps": 0}, "steps is 0; it must be at least 1"),
        (TrainingOptions, {"batch_size": -1}, "batch_size is -1"),
        (TrainingOptions, {"max_grad_norm": -1.0}, "max_grad_norm is -1.0"),
        (AdapterOptions, {"rank": 0}, "rank is 0; it must be at least 1"),
        (GeneratorOptions, {"chunk_size": 0}, "chunk_size is 0; it must be a whole number of at least 1"),
        (AdapterOptions, {"dropout": 1.0}, "dropout is 1.0"),
        (GeneratorOptions, {"budget": 300, "chunk_size": 4}, "chunk_size or budget, not both"),
        (GeneratorOptions, {"scope": "all"}, "scope 'all' is not one of model, layer"),
        (GeneratorOptions, {"engine": "exakt"}, "unknown engine 'exakt'. Did you mean 'exact'"),
        (GeneratorOptions, {"engine": "exact:0"}, "shots are 0; they must be a whole number from 1"),
        (GeneratorOptions, {"engine": "exact:10x", "diff_method": "adjoint"}, "'adjoint' is not available"),
        (GeneratorOptions, {"gradient_shots": "100x"}, "samples no gradient"),
        (DataOptions, {"data": "x", "context": 1}, "context is 1; it must be at least 2"),
        (DataOptions, {"data": "x", "clean": "soap"}, "clean 'soap' is not one of none, wikitext, stories"),
        (RunOptions, {"resume": True, "overwrite": True}, "not both"),
    ],
)
def test_values_outside_what_is_allowed(section, values, message):
    with pytest.raises(ConfigError, match=message):
        section(**values)
