from pathlib import Path

import pytest

from qpeft.training.compare import Comparison, Outcome
from qpeft.training.compare_conclusions import baseline, conclusions, findings
from qpeft.training.compare_tables import shown_table
from qpeft.training.vary import Combination, Plan, plan

BEFORE = 2.1
FLAGS = {"model": "embedded", "data": "embedded"}


def compared(values, *more, fitted=None, metric="bits_per_byte", trained=None, **flags):
    """A comparison whose runs ended at `values`: label to a number a seed, None for a run that failed.

    All train 1,000 numbers, but those that `trained` gives a count.
    """
    seeds = len(next(iter(values.values())))
    sources = ",".join(dict.fromkeys(label.split(", ")[0] for label in values))
    asked = plan([f"source={sources}", *more], seeds, {}, {**FLAGS, **flags})
    combinations = list(asked.combinations)
    if fitted is not None:
        combinations.append(Combination({"source": fitted}, asked.combinations[0].config, "chunk size 7"))
    outcomes = [
        Outcome(combination, seed, Path("run"), ended(value, count, metric), [], "no" if value is None else None)
        for combination in combinations
        for count in [(trained or {}).get(combination.label, 1000)]
        for seed, value in enumerate(values[combination.label])
    ]
    return Comparison(Path("folder"), Plan(asked.varied, combinations, asked.seeds), outcomes)


def ended(value, trained, metric):
    if value is None:
        return None
    return {
        "before": {metric: BEFORE, "primary": metric}, "after": {metric: value, "primary": metric},
        "parameters": {"trained": trained}, "against_exact": None,
        "export": {"weights": "exact"}, "seconds_per_step": None,
    }  # fmt: skip


def test_verdicts_follow_from_the_interval_of_the_paired_differences():
    # Differences 0.02, 0.03, 0.04: mean 0.03, deviation 0.01, half of the interval 4.303 * 0.01 / sqrt(3) = 0.0248.
    found = compared(
        {"circuit": [2.0, 2.1, 2.2], "frozen": [2.02, 2.13, 2.24], "mlp": [2.0, 2.13, 2.26],
         "free": [1.98, 2.07, 2.16]},
        trained={"frozen": 960, "mlp": 999},
    )  # fmt: skip
    assert [finding.added.half_width for finding in findings(found)] == pytest.approx(
        [0.02484, 0.07452, 0.02484], abs=1e-5
    )
    assert conclusions(found) == [
        "Over frozen at the circuit's sizes (960 numbers against 1,000): +0.0300 bits/byte [+0.0052, +0.0548]; "
        "shown: the circuit does better.",
        "Over mlp at the circuit's sizes (999 numbers against 1,000): +0.0300 bits/byte [-0.0445, +0.1045]; not "
        "shown: the interval contains 0.",
        "Over free at the circuit's sizes (1,000 numbers against 1,000): -0.0300 bits/byte [-0.0548, -0.0052]; the "
        "reverse is shown: free does better.",
        "In all: at equal budget the circuit is shown to do better than frozen, and is not shown to do better than "
        "mlp, and does worse than free.",
    ]


def test_the_run_at_equal_budget_decides():
    found = compared(
        {"circuit": [2.0, 2.1], "none": [2.2, 2.3], "none, equal budget": [1.9, 2.0]}, fitted="none",
        trained={"none": 1300, "none, equal budget": 998},
    )  # fmt: skip
    sizes, budget, in_all = conclusions(found)
    assert "shown: the circuit does better" in sizes
    assert budget.startswith("Over none at equal budget (chunk size 7; 998 numbers against 1,000): -0.1000 bits/byte")
    assert in_all == "In all: at equal budget the circuit does worse than none."
    header, rows = shown_table(found)
    assert header[:3] == ("source", "sizes", "trained")
    assert [row[1] for row in rows] == ["circuit's", "circuit's", "chunk size 7"]


def test_a_control_that_trains_more_decides_nothing_at_equal_budget():
    values = {"circuit": [2.0, 2.1], "free": [1.9, 2.0], "none": [2.2, 2.3]}
    no_run = "free has no run at equal budget; at the circuit's sizes it trains 8,722 numbers against 1,000"
    found = compared(values, trained={"free": 8722})
    assert "the reverse is shown: free does better" in conclusions(found)[0]
    assert conclusions(found)[-1] == f"In all: at equal budget the circuit is shown to do better than none ({no_run})."
    alone = compared({name: values[name] for name in ("circuit", "free")}, trained={"free": 8722})
    assert conclusions(alone)[-1] == f"In all: at equal budget nothing can be concluded ({no_run})."
    both = conclusions(compared(values, trained={"free": 8722, "none": 1001}))[-1]
    assert both == (
        f"In all: at equal budget nothing can be concluded ({no_run}; none has no run at equal "
        "budget; at the circuit's sizes it trains 1,001 numbers against 1,000)."
    )
    assert "free has no run" not in conclusions(compared(values, trained={"free": 1000}))[-1]


def test_a_win_over_all_claims_no_quantum_advantage():
    found = compared({"circuit": [2.0, 2.1], "none": [2.2, 2.3], "free": [2.3, 2.4]})
    assert "does better than every control here" in conclusions(found)[-1]
    assert "no quantum advantage" in conclusions(found)[-1]


def test_one_seed_concludes_nothing():
    found = compared({"circuit": [2.0], "none": [2.2]})
    assert conclusions(found) == [
        "Over none at the circuit's sizes (1,000 numbers against 1,000): +0.2000 bits/byte; one pair of runs finished: "
        "nothing can be concluded.",
        "In all: nothing can be concluded, since a confidence interval needs two pairs of finished runs or more.",
    ]


def test_training_that_improves_nothing_is_said():
    start = "Before training: 2.1000 bits/byte."
    assert baseline(compared({"circuit": [2.2, 2.09], "free": [2.3, 2.4]})) == [start]
    _, warning = baseline(compared({"circuit": [2.2, 2.1], "free": [2.3, None]}))
    assert warning.startswith("No run improved its model")
    assert (
        len(baseline(compared({"circuit": [2.2], "free": [0.5]}, metric="accuracy", task="classification"))) == 1
    )  # 2.2 is more than 2.1
    assert baseline(compared({"circuit": [None], "free": [None]})) == []


def test_only_seeds_that_both_finished_are_paired():
    found = compared({"circuit": [2.0, None, 2.2], "none": [2.1, 9.0, 2.3], "free": [None, None, None]})
    none, free = findings(found)
    assert none.added.mean == pytest.approx(0.1) and none.added.half_width == pytest.approx(0, abs=1e-12)
    assert conclusions(found)[1] == (
        "Over free at the circuit's sizes (no pair of runs finished): nothing can be concluded."
    )
    assert "cannot be compared with free" in conclusions(found)[-1]
    assert free.added.mean is None
    left = compared({"circuit": [2.0, 2.1, 2.2], "none": [2.1, None, None]})
    assert "+0.1000 bits/byte; one pair of runs finished: nothing can be concluded." in conclusions(left)[0]


def test_more_is_better_where_the_metric_says_so():
    found = compared(
        {"circuit": [0.9, 0.8], "none": [0.7, 0.6]}, metric="accuracy", task="classification"
    )  # fmt: skip
    assert "+0.2" in conclusions(found)[0] and "the circuit does better" in conclusions(found)[0]


def test_each_choice_of_other_settings_has_conclusions_of_its_own():
    found = compared(
        {"circuit, 2": [2.0, 2.1], "circuit, 4": [1.0, 1.1], "none, 2": [2.1, 2.2], "none, 4": [0.9, 1.0]}, "rank=2,4"
    )
    lines = conclusions(found)
    assert [line.split(":")[0] for line in lines] == ["rank=2"] * 2 + ["rank=4"] * 2
    assert "+0.1000" in lines[0] and "-0.1000" in lines[2]
    header, rows = shown_table(found)
    place = header.index("difference")
    assert [row[place] for row in rows] == ["–", "–", "+0.1000 ± 0.0000", "-0.1000 ± 0.0000"]


@pytest.mark.parametrize("sources", [("circuit",), ("none", "free")])
def test_without_a_circuit_and_a_control_there_is_nothing_to_say(sources):
    assert conclusions(compared({source: [2.0, 2.1] for source in sources})) == []
