import pytest
import torch

from qpeft.errors import ConfigError
from qpeft.generators.folding import border, check_border, fold


@pytest.mark.parametrize(
    ("rows", "columns", "modes", "expected"),
    [
        (768, 3072, 2, (768, 3072)),
        (64, 64, 3, (16, 16, 16)),  # N**(2/3)
        (4096, 4096, 3, (256, 256, 256)),
        (1024, 1024, 4, (32,) * 4),
        (16, 64, 4, (4, 4, 8, 8)),
        (64, 729, 6, (4, 4, 4, 9, 9, 9)),
        (768, 768, (24, 32, 32, 24), (24, 32, 32, 24)),
        (4, 27, [3, 4, 9], (3, 4, 9)),
        (16384, 16384, 7, (16,) * 7),
    ],
)
def test_folds(rows, columns, modes, expected):
    assert fold(rows, columns, modes) == expected


def test_an_even_fold_keeps_rows_and_columns_apart():
    matrix = torch.arange(36 * 4).view(36, 4)
    folded = matrix.view(fold(36, 4, 4))
    assert folded[2, 3, 1, 0] == matrix[2 * 6 + 3, 1 * 2 + 0]


@pytest.mark.parametrize("modes", [3, 4, 1, 0, -2])
def test_a_fold_that_does_not_divide_says_what_does(modes):
    with pytest.raises(ConfigError, match=rf"768 x 768 .* into {modes} modes: .*modes=2 or modes=\(24, 32, 24, 32\)"):
        fold(768, 768, modes)


def test_sizes_that_do_not_fold_are_named():
    for sizes in [(24, 32, 24, 31), (768 * 768,), (1, 768, 768), ()]:
        with pytest.raises(ConfigError, match=r"do not fold a 768 x 768 matrix: .*product is 589824"):
            fold(768, 768, sizes)
    with pytest.raises(ConfigError, match=r"modes=2 or 4 or modes=\(7, 4, 4\)|modes=2 or modes=\(7, 4, 4\)"):
        fold(7, 16, 6)
    with pytest.raises(ConfigError, match="1 x 16 matrix cannot be folded"):
        fold(1, 16, 2)


@pytest.mark.parametrize(
    ("rows", "modes", "expected"),
    [(64, (8, 8, 4), 2), (64, (64, 2, 2), 1), (8, (8, 8, 8), 1), (64, (16, 16, 16), None), (6, (4, 9), None)],
)
def test_the_border_between_rows_and_columns(rows, modes, expected):
    assert border(rows, modes) == expected


@pytest.mark.parametrize(
    ("rows", "columns", "modes", "offered"),
    [(64, 64, (16,) * 3, r"2 or 4 or 6 or modes=\(8, 8, 8, 8\)"), (8, 81, (9, 8, 9), r"2 or modes=\(2, 4, 9, 9\)"),
     (7, 12, (4, 21), r"2 or modes=\(7, 3, 4\)")],
)  # fmt: skip
def test_modes_without_a_border_are_named(rows, columns, modes, offered):
    check_border(rows, columns, (rows, columns))
    with pytest.raises(ConfigError, match=f"keep the {rows} rows and {columns} columns .* modes={offered}$"):
        check_border(rows, columns, modes)
