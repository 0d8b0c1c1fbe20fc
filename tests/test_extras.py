import math

import pytest

from qpeft.errors import QpeftError
from qpeft.extras import MissingExtraError, is_installed, require


def test_what_is_installed_is_imported():
    assert require("math", "aer", "nothing") is math
    assert require("os.path", "aer", "nothing").join("a", "b")


def test_what_is_missing_is_named_with_the_command_that_installs_it():
    with pytest.raises(MissingExtraError) as caught:
        require("no_such_package.part", "aer", "AerEngine")
    assert str(caught.value) == ('AerEngine needs no-such-package, which is not installed: pip install "qpeft[aer]"')
    assert isinstance(caught.value, QpeftError)
    assert isinstance(caught.value, ImportError)


def test_packages_are_looked_for_without_importing_them():
    assert is_installed()
    assert is_installed("math", "os.path")
    assert not is_installed("math", "no_such_package")
