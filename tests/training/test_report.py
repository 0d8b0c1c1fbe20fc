from datetime import date

from qpeft.training import report
from qpeft.training.report import markdown_report
from qpeft.training.tasks.language_modelling import LanguageModelling


def metrics(**changes):
    side = {"bits_per_byte": 2.0, "perplexity": 9.0, "nats_per_token": 2.2, "tokens": 100, "bytes_per_token": 3.0,
            "unknown_share": 0.0}  # fmt: skip
    counts = {"trained": 50, "frozen": 8, "lora_same_rank": 400, "lora_rank_1": 100, "model": 10_000, "head": 0}
    found = {
        "method": "qpa", "before": dict(side), "after": {**side, "nats_per_token": 2.0}, "parameters": counts,
        "seconds_per_step": 0.1, "steps": 5, "learning_rate": 0.03, "generator": None, "frames": None, "resolved": {},
        "export": {"form": "lora", "parameters": 400, "max_difference": 1e-7, "weights": "exact"},
        "against_exact": None,
    }  # fmt: skip
    for path, value in changes.items():
        section, name = path.split("__")
        found[section][name] = value
    return found


def warnings_for(metrics):
    return report.warnings_for(LanguageModelling(None), metrics)


def test_nothing_to_mind_when_all_is_well():
    assert warnings_for(metrics()) == []


def test_a_smaller_lora_unknown_tokens_skewed_frames_and_a_worse_model_are_named():
    (smaller,) = warnings_for(metrics(parameters__trained=101))
    assert "LoRA of rank 1 would be smaller: it trains 100 numbers, this adapter 101" in smaller
    (unknown,) = warnings_for(metrics(after__unknown_share=0.021))
    assert unknown.startswith("2.1% of the test tokens are unknown")
    far = {"size": 8, "frames": 1, "numbers": 9, "orthogonality_error": 0.25}
    (skewed,) = warnings_for({**metrics(), "frames": [{**far, "orthogonality_error": 1e-4}, far]})
    assert "not orthonormal any more (error 0.2)" in skewed
    assert warnings_for({**metrics(), "frames": [{**far, "orthogonality_error": 1e-4}]}) == []
    (worse,) = warnings_for(metrics(after__nats_per_token=2.3))
    assert "worse than before" in worse


def test_the_papers_metric_appears_only_under_its_own_name(make_config):
    config = make_config()
    assert "padded" not in markdown_report(config, metrics()).replace("padding masked", "")
    with_paper = markdown_report(config, metrics(before__paper_perplexity=1.61, after__paper_perplexity=1.58))
    assert "the paper's padded perplexity (not a perplexity of the text) | 1.6100 | 1.5800" in with_paper


def test_the_report_says_which_weights_were_exported(make_config):
    assert "holds the exact weights (`exact`)" in markdown_report(make_config(), metrics())
    sampled = metrics(export__weights="last_sample")
    sampled["against_exact"] = {"total_variation": 0.25, "fidelity": 0.9, "after": {"bits_per_byte": 1.75}}
    page = markdown_report(make_config(), sampled)
    assert "holds the weights of the engine's last sample, or noise (`last_sample`)" in page
    assert "Median step: 100.0 ms." in page
    assert "Median step: not known." in markdown_report(make_config(), {**sampled, "seconds_per_step": None})
    assert "| bits per byte, weights regenerated exactly |  | 1.750 |" in page


def test_a_calibrations_date_is_told_once(make_config):
    """An old one in the warning, one of today beside the noise."""
    for day, sentence in (("2020-01-01", "Noise of b."), (date.today().isoformat(), "Noise of b, calibrated {}.")):
        engine = {"name": "pauli@b", "noise": "b", "calibrated": day}
        generator = {
            "drawing": "q0", "generators": 1, "ansatz": "ry_cnot", "qubits": 1, "angles": 1, "depth": 1, "chunks": 2,
            "chunk_size": 3, "source": "circuit", "engine": engine,
        }  # fmt: skip
        exact = {"total_variation": 0.25, "fidelity": 0.9}
        page = markdown_report(make_config(), {**metrics(), "generator": generator, "against_exact": exact})
        assert sentence.format(day) in page and page.count(day) == 1
