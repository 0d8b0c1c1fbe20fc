import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from qpeft.errors import ConfigError
from qpeft.training.config import DataOptions
from qpeft.training.tasks.labelled import Rows, load_labelled
from qpeft.training.tasks.tables import read_table
from tests.training.tasks.glue_files import write_sst2


def options(data, **more):
    return DataOptions(data=str(data), task="classification", **more)


def write(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, lines in files.items():
        stem, suffix = name.split("_")
        (folder / f"{stem}.{suffix}").write_text("\n".join(lines) + "\n", encoding="utf8")
    return folder


def test_sst2(tmp_path):
    found = load_labelled(options(write_sst2(tmp_path / "sst2")))
    assert (found.text_columns, found.label_column, found.names) == (("sentence",), "label", ["0", "1"])
    assert len(found.train.labels) == 30 and len(found.test.labels) == 12
    assert found.train.texts[0][0] == "the cat sat on the mat and saw 0 birds" and found.train.labels[:3] == [1, 0, 0]


def test_cola_has_no_header_and_quotes_are_literal(tmp_path):
    lines = ['gj04\t1\t\tHe said "go.', 'bc01\t0\t*\tThem "went.', "gj04\t1\t\tWe go."]
    found = load_labelled(options(write(tmp_path / "cola", train_tsv=lines, dev_tsv=lines[:2])))
    assert (found.text_columns, found.label_column, found.names) == (("sentence",), "label", ["0", "1"])
    assert found.train.texts == [['He said "go.', 'Them "went.', "We go."]] and found.train.labels == [1, 0, 1]
    assert found.test.labels == [1, 0]


def test_rte_has_pairs_and_names(tmp_path):
    lines = ["index\tsentence1\tsentence2\tlabel", "0\ta b\tc\tnot_entailment", "1\td\te f\tentailment"]
    found = load_labelled(options(write(tmp_path / "rte", train_tsv=lines, dev_tsv=lines)))
    assert (found.text_columns, found.names) == (("sentence1", "sentence2"), ["entailment", "not_entailment"])
    assert found.train.texts == [["a b", "d"], ["c", "e f"]] and found.train.labels == [1, 0]


@pytest.mark.parametrize(
    ("header", "row", "texts", "label"),
    [
        ("Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", "{1}\t7\t8\ta\tb", ("#1 String", "#2 String"), "Quality"),
        ("id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "1\t2\t3\ta\tb\t{1}", ("question1", "question2"),
         "is_duplicate"),
        ("index\tquestion\tsentence\tlabel", "0\ta\tb\t{0}", ("question", "sentence"), "label"),
        ("index\tsentence1\tsentence2\tlabel1\tgold_label", "0\ta\tb\tx\t{0}", ("sentence1", "sentence2"),
         "gold_label"),
    ],
    ids=["mrpc", "qqp", "qnli", "mnli"],
)  # fmt: skip
def test_other_tables_of_glue(tmp_path, header, row, texts, label):
    lines = [header, *(row.format(*values) for values in (("no", "0"), ("yes", "1")))]
    held_out = "dev_matched" if label == "gold_label" else "dev"
    folder = write(tmp_path / "task", train_tsv=["\ufeff" + lines[0], *lines[1:]])  # MRPC's have a byte order mark
    (folder / f"{held_out}.tsv").write_text("\n".join(lines), encoding="utf8")
    found = load_labelled(options(folder))
    assert (found.text_columns, found.label_column, found.train.labels) == (texts, label, [0, 1])


def test_numbers_with_a_decimal_point_are_real_labels(tmp_path):
    lines = ["sentence1\tsentence2\tscore", "a\tb\t5.000", "c\td\t0.25", "e\tf\t3"]
    found = load_labelled(options(write(tmp_path / "sts", train_tsv=lines, dev_tsv=lines[:3])))
    assert found.names is None and found.train.labels == [5.0, 0.25, 3.0] and found.test.labels == [5.0, 0.25]


def test_csv_keeps_its_quotes_rule_and_whole_numbers_sort_by_size(tmp_path):
    lines = ["text,label", '"a, ""b""",10', "c,9", "d,10"]
    found = load_labelled(options(write(tmp_path / "csv", train_csv=lines, dev_csv=lines)))
    assert found.train.texts[0][0] == 'a, "b"' and found.names == ["9", "10"] and found.train.labels == [1, 0, 1]


def test_one_file_is_split_unless_there_is_test_data(tmp_path):
    folder = write_sst2(tmp_path / "sst2")
    alone = load_labelled(options(folder / "train.tsv"))
    assert (len(alone.train.labels), len(alone.test.labels)) == (27, 3)
    both = load_labelled(options(folder / "train.tsv", test_data=str(folder / "dev.tsv")))
    assert (len(both.train.labels), len(both.test.labels)) == (30, 12)


def test_a_saved_dataset_gives_names_of_classes_and_prefers_validation_to_test(tmp_path):
    features = Features(
        {"premise": Value("string"), "hypothesis": Value("string"), "label": ClassLabel(names=["z", "a"])}
    )

    def rows(labels):
        return Dataset.from_dict(
            {"premise": [f"p{i}" for i in labels], "hypothesis": ["h"] * len(labels), "label": labels}, features
        )

    hidden = DatasetDict({"train": rows([0, 1, 1]), "validation": rows([1]), "test": rows([-1])})
    hidden.save_to_disk(tmp_path / "data")
    found = load_labelled(options(tmp_path / "data"))
    assert found.names == ["a", "z"] and found.train.labels == [1, 0, 0] and found.test.labels == [0]
    DatasetDict({"train": rows([0, 1]), "test": rows([-1])}).save_to_disk(tmp_path / "hidden")
    with pytest.raises(ConfigError, match="row 1 of the test table has nothing in column 'label'"):
        load_labelled(options(tmp_path / "hidden"))


def test_a_dataset_configuration_is_passed_on(tmp_path, monkeypatch):
    import datasets

    asked = []

    def load_dataset(name, config):
        asked.append((name, config))
        return DatasetDict({"train": Dataset.from_dict({"sentence": ["a"] * 10, "label": [0.5, 1.0] * 5})})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    found = load_labelled(options("nyu-mll/glue", data_config="stsb"))
    assert asked == [("nyu-mll/glue", "stsb")]
    assert found.names is None and found.train.labels == [0.5, 1.0] * 4 + [0.5]


def test_columns_can_be_chosen(tmp_path):
    lines = ["a\tb\tc\tsentence\tlabel", "1\tx y\tz\ts\tu", "2\tv\tw\ts\tu"]
    folder = write(tmp_path / "own", train_tsv=lines, dev_tsv=lines)
    found = load_labelled(options(folder, text_column="b", second_text_column="c", label_column="a"))
    assert found.text_columns == ("b", "c") and found.train.texts == [["x y", "v"], ["z", "w"]]
    assert load_labelled(options(folder, text_column="b", label_column="a")).text_columns == ("b",)
    for more, message in (
        ({"text_column": "d"}, "there is no column 'd'; the table has the columns 'a', 'b', 'c', 'sentence', 'label'"),
        ({"second_text_column": "c"}, "--second-text-column goes with --text-column"),
        ({}, "column 'label' has one label only"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_labelled(options(folder, **more))


def test_a_subset_is_random_but_the_same_and_in_order():
    rows = Rows([[str(i) for i in range(100)]], list(range(100)))
    part = rows.subset(10)
    assert part.labels == sorted(part.labels) != list(range(10)) and len(set(part.labels)) == 10
    assert part.texts == [[str(i) for i in part.labels]]
    assert rows.subset(10) == part
    assert rows.subset(None) is rows and rows.subset(100) is rows


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train_tsv": ["x\ty", "a\tb"], "dev_tsv": ["x\ty"]}, "no rows"),
        ({"train_tsv": ["x\ty", "a\tb"], "dev_tsv": ["x\ty", "a\tb"]}, "no known text column; .* 'x', 'y'"),
        ({"train_tsv": ["text\ty", "a\tb"], "dev_tsv": ["text\ty", "a\tb"]}, "no known label column"),
        ({"train_tsv": ["text\tlabel", "a\tb", "c"], "dev_tsv": ["text"]}, "line 3 of .* has 1 fields, not 2"),
        ({"train_tsv": ["text\ttext", "a\tb"], "dev_tsv": ["text"]}, "a column twice"),
        ({"train_tsv": ["text\tlabel", "a\tb", "c\td"]}, "has no test table .*dev.tsv"),
        ({"train_tsv": ["text\tlabel", "a\tb", " \td"], "dev_tsv": ["text\tlabel", "a\tb"]}, "row 2 of the training"),
        ({"train_tsv": ["text\tlabel", "a\tb", "c\td"], "dev_tsv": ["text\tlabel", "a\te"]}, "'e' is none of those"),
        ({"train_tsv": ["text\tlabel", "a\t1.5", "c\t2"], "dev_tsv": ["text\tlabel", "a\te"]}, "is no number"),
        ({"train_tsv": ["text\tlabel", "a\tb", "c\td"], "dev_tsv": ["text\tclass", "a\te"]}, "no column 'label'"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, files, message):
    with pytest.raises(ConfigError, match=message):
        load_labelled(options(write(tmp_path / "data", **files)))


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "a.tsv").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "b.tsv").touch()
    for name, message in (("a.tsv", "no UTF-8"), ("b.tsv", "is empty"), ("c.tsv", "no file"), ("d.txt", "no .tsv or")):
        with pytest.raises(ConfigError, match=message):
            read_table(tmp_path / name)
    with pytest.raises(ConfigError, match="no TSV or CSV file and no dataset"):
        load_labelled(options(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "clasification"}, "unknown task 'clasification'. Did you mean 'classification'"),
        ({"task": "classification", "by_line": True}, "by_line is a setting of the task language-modelling"),
        ({"label_column": "y"}, "label_column is a setting of the task classification"),
        ({"task": "classification", "metric": "acuracy"}, "unknown metric 'acuracy'. Did you mean 'accuracy'"),
        ({"task": "classification", "max_test_examples": 0}, "max_test_examples is 0; it must be at least 1"),
    ],
)
def test_settings_that_do_not_go_together(settings, message):
    with pytest.raises(ConfigError, match=message):
        DataOptions(data="x", **settings)
