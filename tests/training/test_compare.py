import csv
import io
import json
import statistics
from dataclasses import replace
from datetime import date

import pytest
import torch
from rich.console import Console

from qpeft.adapters import QPABank
from qpeft.engines import ENGINES, EngineEntry, register_engine
from qpeft.errors import ConfigError, EngineError, JobError, NoiseError, RunError
from qpeft.noise.survey import stale
from qpeft.qcircuits import StatevectorEngine
from qpeft.training import compare as module
from qpeft.training import compare_plots
from qpeft.training.compare import Preparation, compare
from qpeft.training.compare_conclusions import conclusions
from qpeft.training.compare_plots import final_figure, loss_figure
from qpeft.training.compare_report import write_results
from qpeft.training.compare_summary import Summary
from qpeft.training.compare_tables import runs_frame, shown_table, table_frame
from qpeft.training.finetune import prepare, train
from qpeft.training.tasks import language_modelling
from qpeft.training.vary import plan


@pytest.fixture
def make_plan(model_folder, text_file, tmp_path):
    def make(*vary, seeds=2, **flags):
        common = {
            "model": str(model_folder), "data": str(text_file), "context": 16, "steps": 4, "batch_size": 2,
            "warmup_steps": 1, "rank": 2, "chunk_size": 16, "log_every": 1, "save_every": 2,
            "output": str(tmp_path / "cmp"),
        }  # fmt: skip
        return plan(vary, seeds, {}, {**common, **flags})

    return make


def rows(file):
    return list(csv.DictReader(file.open(encoding="utf8")))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, model_folder, text_file):
    flags = {
        "model": str(model_folder), "data": str(text_file), "context": 16, "steps": 4, "batch_size": 2, "rank": 2,
        "warmup_steps": 1, "chunk_size": 16, "log_every": 1, "output": str(tmp_path_factory.mktemp("cmp")),
    }  # fmt: skip
    return compare(plan(["engine=exact,exact:3x", "ansatz=ry_cnot,rx_cnot"], 2, {}, flags))


def test_every_combination_is_trained_with_every_seed(finished):
    asked = [(o.combination.label, o.seed) for o in finished.outcomes]
    assert asked == [(f"{e}, {a}", s) for e in ("exact", "exact:3x") for a in ("ry_cnot", "rx_cnot") for s in (0, 1)]
    for outcome in finished.outcomes:
        config = json.loads((outcome.folder / "run.json").read_text(encoding="utf8"))["settings"]
        assert config["generator"]["engine"] == outcome.combination.values["engine"]
        assert config["generator"]["ansatz"] == outcome.combination.values["ansatz"]
        assert config["training"]["seed"] == outcome.seed
        assert len(outcome.curve) == 4
    assert {path.name for path in finished.folder.iterdir()} == {
        "compare.json", "table.csv", "runs.csv", "report.md", "loss.png", "loss.svg", "final.png", "final.svg", "runs"
    }  # fmt: skip


def test_a_run_is_the_run_that_train_makes(finished, tmp_path):
    """The model that the runs share stays as it was, whatever ran before."""
    for outcome in (finished.outcomes[0], finished.outcomes[-1]):
        config = outcome.combination.seeded(outcome.seed)
        alone = train(replace(config, run=replace(config.run, output=str(tmp_path / outcome.folder.name))))
        assert alone.curve == outcome.curve
        for name in ("before", "after", "against_exact"):
            assert alone.metrics[name] == outcome.metrics[name]


def test_the_tables_are_the_runs_arithmetic(finished):
    table, runs = rows(finished.folder / "table.csv"), rows(finished.folder / "runs.csv")
    assert len(table) == 4 and len(runs) == 8
    for place, row in enumerate(table):
        own, first = runs[2 * place : 2 * place + 2], runs[:2]
        assert [(r["engine"], r["ansatz"]) for r in own] == [(row["engine"], row["ansatz"])] * 2
        for name in ("bits_per_byte", "exact_bits_per_byte", "total_variation", "fidelity", "seconds_per_step"):
            values = [float(r[name]) for r in own]
            assert float(row[f"{name}_mean"]) == pytest.approx(sum(values) / 2)
            assert float(row[f"{name}_std"]) == pytest.approx(statistics.stdev(values), abs=1e-12)
        pairs = [float(a["bits_per_byte"]) - float(b["bits_per_byte"]) for a, b in zip(own, first, strict=True)]
        assert float(row["difference_mean"]) == pytest.approx(sum(pairs) / 2, abs=1e-12)
        assert float(row["difference_std"]) == pytest.approx(statistics.stdev(pairs), abs=1e-12)
        half = 12.7062 * statistics.stdev(pairs) / 2**0.5
        assert float(row["difference_ci95"]) == pytest.approx(half, rel=1e-5, abs=1e-12)
    for run in runs:
        metrics = json.loads((finished.folder / run["folder"] / "metrics.json").read_text(encoding="utf8"))
        assert float(run["bits_per_byte"]) == metrics["after"]["bits_per_byte"]
        assert run["weights"] == ("exact" if run["engine"] == "exact" else "last_sample")
        sampled = run["engine"] != "exact"
        assert (float(run["total_variation"]) > 0) == sampled
        assert (run["exact_bits_per_byte"] != run["bits_per_byte"]) == sampled


def test_the_page_shows_the_table_and_both_plots(finished):
    page = (finished.folder / "report.md").read_text(encoding="utf8")
    header, shown = shown_table(finished)
    assert f"| {' | '.join(header)} |" in page
    assert all(f"| {' | '.join(row)} |" in page for row in shown)
    first = [float(row["bits_per_byte"]) for row in rows(finished.folder / "runs.csv")[:2]]
    half = 12.7062 * statistics.stdev(first) / 2**0.5  # t(0.975, 1) = 12.7062, from a table of Student's t
    assert shown[0][header.index("bits/byte")] == f"{sum(first) / 2:.4f} ± {half:.4f}"
    assert shown[0][header.index("difference")] == "–"
    assert "(loss.png)" in page and "(final.png)" in page and "## Failed" not in page


def test_a_notebook_gets_frames_and_figures(finished, tmp_path):
    table, runs = table_frame(finished), runs_frame(finished)
    assert table.index.names == ["engine", "ansatz"]
    assert table.loc[("exact:3x", "rx_cnot"), "trained"] == shown_table(finished)[1][3][2]
    written = rows(finished.folder / "runs.csv")
    assert runs["bits_per_byte"].tolist() == [float(row["bits_per_byte"]) for row in written]
    for draw in (loss_figure, final_figure):
        drawing = draw(finished, tmp_path / "figure.png")
        assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
        assert drawing.axes[0].get_xlabel()
    nothing = [replace(outcome, metrics=None, failure="no") for outcome in finished.outcomes]
    with pytest.raises(RunError, match=r"no run of the comparison in .* succeeded"):
        final_figure(replace(finished, outcomes=nothing))


def test_columns_that_hold_nothing_are_left_out(finished):
    exact = replace(finished, outcomes=finished.outcomes[:4])
    assert shown_table(exact)[0] == (
        "engine", "ansatz", "trained", "bits/byte", "difference", "ms/step", "runs"
    )  # fmt: skip
    assert {"exact weights", "total variation", "fidelity"} < set(shown_table(finished)[0])


def test_runs_of_one_seed_start_from_the_same_numbers_and_examples(make_plan, monkeypatch):
    starts = {}

    def recording(config, prepared, progress):
        model = module.add_adapter(prepared, config)
        bank = model.base_model.bank()
        assert isinstance(bank, QPABank)
        starts[config.generator.engine, config.training.seed] = torch.cat([p.reshape(-1) for p in bank.parameters()])
        return train(config, prepared=replace(prepared, model=prepare(config).model), progress=progress)

    monkeypatch.setattr(module, "train", recording)
    outcomes = compare(make_plan("engine=exact,exact:3x")).outcomes
    for seed in (0, 1):
        assert torch.equal(starts["exact", seed], starts["exact:3x", seed])
        losses = [o.curve[0][1] for o in outcomes if o.seed == seed]
        assert losses[0] == losses[1]  # the update is zero at the start: the first loss tells the examples
    assert not torch.equal(starts["exact", 0], starts["exact", 1])
    assert outcomes[0].curve[0] != outcomes[1].curve[0]


def test_the_shared_model_keeps_its_weights_and_modules(make_config):
    preparation, config = Preparation(), make_config()
    first = preparation(config)
    state = {name: tensor.clone() for name, tensor in first.model.state_dict().items()}
    train(config, prepared=first)
    second = preparation(config)
    assert second.test is first.test
    found = second.model.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
    other = preparation(replace(config, data=replace(config.data, context=8)))
    assert other.train.inputs.shape[1] == 8


class Interrupted(BaseException):
    """As a KeyboardInterrupt, which would stop pytest."""


def test_an_interrupted_comparison_goes_on_where_it_stopped(make_plan, tmp_path, monkeypatch):
    whole = compare(make_plan("engine=exact,exact:3x", output=str(tmp_path / "whole")))
    original, calls = language_modelling.mean_token_loss, []

    def failing(outputs, targets, num_items_in_batch=None):
        calls.append(1)
        if len(calls) == 4 + 3:  # in the third step of the second run, behind its checkpoint
            raise Interrupted
        return original(outputs, targets, num_items_in_batch)

    monkeypatch.setattr(language_modelling, "mean_token_loss", failing)
    with pytest.raises(Interrupted):
        compare(make_plan("engine=exact,exact:3x"))
    assert [row["seed"] for row in rows(tmp_path / "cmp" / "runs.csv")] == ["0"]  # of the run that was finished
    assert [row["runs"] for row in rows(tmp_path / "cmp" / "table.csv")] == ["1"]
    assert not (tmp_path / "cmp" / "report.md").exists()
    asked = make_plan("engine=exact,exact:3x", resume=True)
    calls[:] = [1] * 100
    resumed = compare(asked)
    assert len(calls) == 100 + 2 + 4 + 4  # the finished run is not repeated, the second goes on from step 2
    assert not resumed.failed
    assert len(rows(tmp_path / "cmp" / "runs.csv")) == 4
    for ours, theirs in zip(resumed.outcomes, whole.outcomes, strict=True):
        assert ours.metrics["after"]["bits_per_byte"] == pytest.approx(
            theirs.metrics["after"]["bits_per_byte"], abs=1e-5
        )
    calls.clear()
    again = compare(asked)
    assert not calls
    assert [o.metrics for o in again.outcomes] == [o.metrics for o in resumed.outcomes]


def test_the_circuit_is_compared_with_its_controls(make_plan, tmp_path):
    console = Console(file=io.StringIO(), width=200)
    asked = {"chunk_size": None, "budget": 300}
    found = compare(make_plan("source=none,circuit", **asked), console)
    labels = [o.combination.label for o in found.outcomes if o.seed == 0]
    assert labels == ["none", "none, equal budget", "circuit"]
    trained = {o.combination.label: o.metrics["parameters"]["trained"] for o in found.outcomes}
    assert trained["circuit"] <= 300 and trained["none, equal budget"] <= trained["circuit"]
    kept = json.loads((found.folder / "compare.json").read_text(encoding="utf8"))["runs"]
    assert kept["02-source-none-equal-budget-seed1"]["equal_budget"] == found.outcomes[2].combination.fitted
    said = console.file.getvalue()
    assert all(said.index(f"  {label}: {trained[label]:,} (") < said.index("1/6") for label in labels)
    runs = rows(found.folder / "runs.csv")
    value = {(r["source"], r["sizes"], r["seed"]): float(r["bits_per_byte"]) for r in runs}
    table = rows(found.folder / "table.csv")
    for row in table:
        pairs = [value[row["source"], row["sizes"], s] - value["circuit", "circuit's", s] for s in "01"]
        assert float(row["difference_mean"]) == pytest.approx(sum(pairs) / 2, abs=1e-12)
    page = (found.folder / "report.md").read_text(encoding="utf8")
    section = page.split("## What the circuit adds")[1]
    assert all(f"* {line}" in section for line in conclusions(found)) and len(conclusions(found)) == 3
    assert "One learning rate serves the circuit and its controls" in section
    counts = section.split("Numbers that train:\n\n")[1].split("\n\n")[0].splitlines()
    assert [line.split(":")[0] for line in counts] == [f"* {label}" for label in labels]
    assert all(line in said for line in (count.replace("*", " ", 1) for count in counts))
    assert "not the sampling of the test set" in page
    assert "less the circuit's run with the same seed" in page
    ticks = [text.get_text() for text in final_figure(found).axes[0].get_yticklabels()]
    assert ticks[0] == f"none ({trained['none']})"

    again = compare(make_plan("source=none,circuit", resume=True, **asked))
    assert [o.metrics for o in again.outcomes] == [o.metrics for o in found.outcomes]
    assert (found.folder / "report.md").read_text(encoding="utf8") == page
    with pytest.raises(RunError, match=r"source was \['none', 'circuit'\], now \['circuit', 'free'\]"):
        compare(make_plan("source=circuit,free", resume=True, **asked))


def test_the_report_says_why_a_control_has_no_run_at_equal_budget(make_plan):
    console = Console(file=io.StringIO(), width=60)
    asked = make_plan("source=circuit,free", seeds=1, chunk_size=1, hidden=[1], reps=1)
    found = compare(asked, console)
    trained = {o.combination.label: o.metrics["parameters"]["trained"] for o in found.outcomes}
    assert trained.keys() == {"circuit", "free"} and trained["free"] > trained["circuit"]
    why = "no run at equal budget, since its smallest generator trains more"
    assert f"* free: {why}" in (found.folder / "report.md").read_text(encoding="utf8")
    assert conclusions(found)[-1] == (
        "In all: at equal budget nothing can be concluded (free has no run at equal budget; at the circuit's sizes it "
        f"trains {trained['free']:,} numbers against {trained['circuit']:,})."
    )
    said = console.file.getvalue().splitlines()
    place = said.index("  free: no run at equal budget, since its smallest generator")
    assert said[place + 1] == "    trains more"


def test_sources_without_a_circuit_say_that_there_is_no_reference(make_plan):
    console = Console(file=io.StringIO(), width=200)
    found = compare(make_plan("source=free,none", seeds=1), console)
    assert "There is no circuit among the sources" in console.file.getvalue()
    page = (found.folder / "report.md").read_text(encoding="utf8")
    assert "There is no circuit among the sources" in page and "less the first row's run" in page
    assert "sizes" not in shown_table(found)[0]


def test_an_unknown_control_is_refused_before_anything_is_loaded(make_plan, tmp_path):
    with pytest.raises(ConfigError, match=r"unknown source 'bits'\. Available: circuit, frozen, free, mlp, none"):
        compare(make_plan("source=circuit,bits", model="no-such-model"))
    assert not (tmp_path / "cmp").exists()


class Broken(StatevectorEngine):
    def probabilities(self, circuit, angles):
        raise OSError("the cable is out")


def test_a_failed_run_costs_the_others_nothing(make_plan, monkeypatch):
    monkeypatch.setattr(ENGINES, "_entries", dict(ENGINES))
    register_engine("broken", EngineEntry(lambda name, options: Broken(), "fails", ("adjoint",)))
    missing = EngineEntry(
        lambda name, options: Broken(), "", ("adjoint",), packages=("no_such_package",), install="pip install it"
    )
    register_engine("missing", missing)
    console = Console(file=io.StringIO(), width=200)
    found = compare(make_plan("engine=broken,missing,exact"), console)
    assert [o.failure for o in found.outcomes] == [
        *["OSError: the cable is out"] * 2, *["engine 'missing' needs no_such_package: pip install it"] * 2, None, None
    ]  # fmt: skip
    assert [o.combination.label for o in found.failed] == ["broken", "broken", "missing", "missing"]
    table = rows(found.folder / "table.csv")
    assert [(row["runs"], row["failed"]) for row in table] == [("0", "2"), ("0", "2"), ("2", "0")]
    assert table[0]["failure"] == "OSError: the cable is out" and table[0]["bits_per_byte_mean"] == ""
    page = (found.folder / "report.md").read_text(encoding="utf8")
    assert "* engine=missing, seed 1: engine 'missing' needs no_such_package" in page
    assert "1/6  broken, seed 0: failed: OSError: the cable is out" in console.file.getvalue()
    status = json.loads((found.folder / "compare.json").read_text(encoding="utf8"))["runs"]
    assert [run["status"] for run in status.values()] == ["failed"] * 4 + ["finished"] * 2

    register_engine("now_there", ENGINES["exact"])
    monkeypatch.setitem(ENGINES._entries, "missing", ENGINES["exact"])
    again = compare(make_plan("engine=broken,missing,exact", resume=True))
    assert [o.combination.label for o in again.failed] == ["broken", "broken"]  # what failed is tried again


def test_a_diverged_combination_says_so(make_plan):
    found = compare(make_plan("learning_rate=0.03,1e38", seeds=1, warmup_steps=0))
    (failed,) = found.failed
    assert failed.combination.label == "1e+38" and failed.failure.startswith("training diverged")
    assert shown_table(found)[1][1][-1] == "0 (1 failed)"


def test_plain_lora_has_no_circuit_to_compare(make_plan):
    found = compare(make_plan("method=qpa,lora", seeds=1))
    _, lora = rows(found.folder / "table.csv")
    assert lora["total_variation_mean"] == lora["exact_bits_per_byte_mean"] == lora["bits_per_byte_std"] == ""
    assert float(lora["bits_per_byte_mean"]) > 0


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        (
            ("ansatz=ry_cnot,ry_cnott",),
            "the combination ansatz=ry_cnott is refused: unknown ansatz 'ry_cnott'. Did you",
        ),
        (("targets=lm_head,lm_heat",), "the combination targets=lm_heat is refused: unknown target layer 'lm_heat'"),
        (("context=16,64",), "context 64 is more than the model's 32 positions"),
        (("data=embedded,no-such.txt",), "no-such.txt"),
    ],
)
def test_what_is_wrong_with_a_combination_is_said_before_any_run(make_plan, vary, message, tmp_path):
    flags = {name: None for name in ("data", "context") if vary[0].startswith(name)}
    with pytest.raises(ConfigError) as caught:
        compare(make_plan(*vary, **flags))
    assert message in str(caught.value)
    assert not (tmp_path / "cmp").exists()


@pytest.mark.parametrize(
    ("engine", "message"),
    [("aer@ibm_manila:20x", "fake_manila has no line of"), ("pauli@ibm_manila", "fake_manila has no line of")],
)
def test_a_device_too_small_is_refused_before_any_run(make_plan, tmp_path, engine, message):
    with pytest.raises(ConfigError, match=f"the combination engine={engine} is refused: .*{message}"):
        compare(make_plan(f"engine=exact,{engine}", chunk_size=1))
    assert not (tmp_path / "cmp").exists()


@pytest.mark.parametrize("error", [JobError, EngineError, NoiseError])
def test_only_a_lost_job_waits_for_its_run(make_plan, monkeypatch, error):
    class Refusing(StatevectorEngine):
        def check(self, circuit, dtype=torch.float32, device="cpu"):
            raise error("does not go")

    monkeypatch.setattr(ENGINES, "_entries", dict(ENGINES))
    register_engine("refusing", EngineEntry(lambda name, options: Refusing(), "fails", ("adjoint",)))
    asked = make_plan("engine=exact,refusing", seeds=1)
    if error is JobError:
        assert [o.failure for o in compare(asked).outcomes] == [None, "does not go"]
    else:
        with pytest.raises(ConfigError, match="the combination engine=refusing is refused: does not go"):
            compare(asked)


def test_the_page_names_noise_and_old_calibrations(finished, tmp_path):
    engines = [
        {"noise": "fake_b [0, 1]", "calibrated": date.today().isoformat()},
        {"forward": {"noise": "fake_a", "ran_on": ["fake_a [3, 4]"], "calibrated": "2020-01-01"}},
        {"noise": "fake_c", "calibrated": None},
    ]
    outcomes = [
        replace(o, metrics={**o.metrics, "generator": {"engine": engine}})
        for o, engine in zip(finished.outcomes, [*engines, *engines[:1], *[{}] * 4], strict=True)
    ]
    write_results(replace(finished, folder=tmp_path, outcomes=outcomes))
    page = (tmp_path / "report.md").read_text(encoding="utf8")
    section = page.split("## Noise\n\n")[1].split("\n\n")[0].splitlines()
    assert section == [
        f"* fake_a [3, 4]: {stale('2020-01-01')}.",
        f"* fake_b [0, 1], calibrated {date.today().isoformat()}.", "* fake_c, calibrated never.",
    ]  # fmt: skip
    assert "## Noise" not in (finished.folder / "report.md").read_text(encoding="utf8")


def test_the_page_is_there_even_if_a_plot_fails(finished, tmp_path, monkeypatch):
    def failing(*args):
        raise ValueError("no plot")

    monkeypatch.setattr(compare_plots, "curves_plot", failing)
    with pytest.raises(ValueError, match="no plot"):
        write_results(replace(finished, folder=tmp_path))
    assert "## Failed" not in (tmp_path / "report.md").read_text(encoding="utf8")


def test_a_step_time_that_is_not_known_is_left_out(finished):
    first, second = finished.outcomes[:2]
    unknown = replace(first, metrics={**first.metrics, "seconds_per_step": None})
    found = Summary([unknown, second], [unknown, second], finished.primary).means["seconds_per_step"]
    assert found.mean == second.metrics["seconds_per_step"] and found.std is None


def test_the_folder_of_another_comparison_is_left_alone(make_plan, tmp_path):
    with pytest.raises(RunError, match="there is no comparison to resume in"):
        compare(make_plan("rank=1,2", rank=None, resume=True))
    first = compare(make_plan("rank=1,2", rank=None, seeds=1))
    manifest = (first.folder / "compare.json").read_bytes()
    with pytest.raises(RunError, match=r"holds a comparison. Go on with it by --resume"):
        compare(make_plan("rank=1,2", rank=None, seeds=1))
    for changes, message in (
        ({"seeds": 2}, r"seeds was \[0\], now \[0, 1\]"), ({"steps": 5}, "steps was 4, now 5"),
        ({"paper_metric": True}, "paper_metric was False, now True"), ({"log_every": 2}, "log_every was 1, now 2"),
    ):  # fmt: skip
        with pytest.raises(RunError, match=f"started with other settings: {message}"):
            compare(make_plan("rank=1,2", **{"rank": None, "seeds": 1, "resume": True, **changes}))
    with pytest.raises(RunError, match=r"rank was \['1', '2'\], now \['1', '3'\]"):
        compare(make_plan("rank=1,3", rank=None, seeds=1, resume=True))
    assert (first.folder / "compare.json").read_bytes() == manifest

    (first.folder / "notes.txt").write_text("mine", encoding="utf8")
    replaced = compare(make_plan("rank=3", rank=None, seeds=1, overwrite=True))
    assert [path.name for path in (replaced.folder / "runs").iterdir()] == ["01-rank-3-seed0"]
    assert (first.folder / "notes.txt").read_text(encoding="utf8") == "mine"

    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(RunError, match="is not empty and holds no comparison"):
        compare(make_plan("rank=1", rank=None, output=str(tmp_path / "other")))
    (tmp_path / "cmp" / "compare.json").write_text("{", encoding="utf8")
    with pytest.raises(RunError, match=r"compare.json is damaged"):
        compare(make_plan("rank=1", rank=None, resume=True))
    with pytest.raises(RunError, match="is a file; give a folder"):
        compare(make_plan("rank=1", rank=None, output=str(tmp_path / "other" / "file")))


def test_one_display_shows_all_runs_and_the_current_one(make_plan):
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    compare(make_plan("rank=1,2", rank=None, seeds=1), console)
    shown = console.file.getvalue()
    for text in ("runs", "2/2", "1, seed 0", "0/4", "2/2  2, seed 0: ", "bits/byte"):
        assert text in shown
    assert shown.count("\x1b[?25l") == 1  # the cursor is hidden once: one live display
