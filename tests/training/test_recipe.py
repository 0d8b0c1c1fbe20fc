import pytest

from qpeft.training.recipe import loading_lines, resolved_of_run


@pytest.mark.parametrize("text", [None, "{", "x = 1", "[resolved]\nlabels = 3", '[tool]\nname = "another program"'])
def test_settings_that_are_no_runs_are_passed_over(tmp_path, text):
    if text is not None:
        (tmp_path / "config.toml").write_text(text)
    assert resolved_of_run(tmp_path / "adapter").get("labels", 3) == 3
    (_, line) = loading_lines(tmp_path / "adapter", "SEQ_CLS", None)
    assert line.startswith("base_model = AutoModelForSequenceClassification.from_pretrained(...")
    assert loading_lines(tmp_path / "adapter", "CAUSAL_LM", None) == []


def test_a_runs_settings_name_the_base_unless_another_is_given(tmp_path):
    (tmp_path / "config.toml").write_text(
        '[model]\nmodel = "someone/base"\n[data]\ndata = "rows"\ntask = "classification"\n'
        '[resolved]\nlabels = ["no", "yes"]\npad_token_id = 7\ncopied_embedding = false\n'
    )
    expected = "'someone/base', num_labels=2, pad_token_id=7, id2label={0: 'no', 1: 'yes'}"
    assert expected in "\n".join(loading_lines(tmp_path / "adapter", "SEQ_CLS", None))
    assert "'mine', num_labels=2" in "\n".join(loading_lines(tmp_path / "adapter", "SEQ_CLS", "mine"))
