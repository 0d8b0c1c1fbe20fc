import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qpeft.errors import ConfigError
from qpeft.training import config, embedded
from qpeft.training.config import DataOptions
from qpeft.training.data import (
    CLEANINGS,
    IGNORED,
    TokenChunks,
    detokenise_wikitext,
    join_stories,
    load_corpus,
    read_text,
    tokenise,
)
from qpeft.training.models import load_tokenizer


def load(data, **options):
    return load_corpus(DataOptions(data=str(data), **options))


class TestCorpus:
    def test_a_file_is_split_at_a_line_end_nine_to_one(self, tmp_path):
        text = "".join(f"line {i:04d}\n" for i in range(1000))
        (tmp_path / "all.txt").write_text(text, encoding="utf8")
        corpus = load(tmp_path / "all.txt")
        assert corpus.train + corpus.test == text
        assert corpus.train.endswith("\n")
        assert len(corpus.test) == pytest.approx(len(text) / 10, rel=0.01)

    @pytest.mark.parametrize("names", [("train.txt", "test.txt"), ("wiki.train.txt", "wiki.valid.txt")])
    def test_a_folder_gives_its_splits(self, tmp_path, names):
        for name, text in zip(names, ("to learn", "to test"), strict=True):
            (tmp_path / name).write_text(text, encoding="utf8")
        corpus = load(tmp_path)
        assert (corpus.train, corpus.test) == ("to learn", "to test")

    def test_the_test_split_comes_before_the_validation_split(self, tmp_path):
        for name in ("train", "valid", "test"):
            (tmp_path / f"{name}.txt").write_text(name, encoding="utf8")
        assert load(tmp_path).test == "test"

    def test_another_test_file_leaves_the_whole_text_for_training(self, tmp_path):
        (tmp_path / "a.txt").write_text("first\nsecond\n", encoding="utf8")
        (tmp_path / "b.txt").write_text("third\n", encoding="utf8")
        corpus = load(tmp_path / "a.txt", test_data=str(tmp_path / "b.txt"))
        assert (corpus.train, corpus.test) == ("first\nsecond\n", "third\n")

    def test_limits_count_characters(self, text_file):
        corpus = load(text_file, max_train_chars=100, max_test_chars=50)
        assert (len(corpus.train), len(corpus.test)) == (100, 50)

    def test_the_embedded_text_holds_topics_out(self):
        corpus = load(embedded.NAME)
        assert len(corpus.train) > 5 * len(corpus.test) > 10_000
        assert corpus.test[:200] not in corpus.train

    def test_a_python_without_the_embedded_text_is_named(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "pydoc_data", None)
        with pytest.raises(ConfigError, match=r"no pydoc_data.topics.*give --data"):
            load(embedded.NAME)

    def test_folders_of_data_files_and_saved_datasets(self, tmp_path):
        from datasets import Dataset, DatasetDict

        (tmp_path / "json").mkdir()
        (tmp_path / "json" / "train.jsonl").write_text('{"body": "one"}\n{"body": "two"}\n', encoding="utf8")
        (tmp_path / "json" / "test.jsonl").write_text('{"body": "three"}\n', encoding="utf8")
        corpus = load(tmp_path / "json", text_column="body")
        assert (corpus.train, corpus.test) == ("one\ntwo\n", "three\n")
        saved = DatasetDict(
            train=Dataset.from_dict({"text": ["a\n", "b"]}), validation=Dataset.from_dict({"text": ["c"]})
        )
        saved.save_to_disk(tmp_path / "disk")
        corpus = load(tmp_path / "disk")
        assert (corpus.train, corpus.test) == ("a\nb\n", "c\n")
        with pytest.raises(ConfigError, match="no column 'body'; it has text"):
            load(tmp_path / "disk", text_column="body")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "is empty"),
            (b" \n\n", "is empty"),
            (b"\xff\xfe\x00binary", "is not a UTF-8 text file"),
            (b"some\0thing", "NUL bytes"),
        ],
    )
    def test_unusable_files(self, tmp_path, content, message):
        (tmp_path / "x.txt").write_bytes(content)
        with pytest.raises(ConfigError, match=message):
            load(tmp_path / "x.txt")

    def test_missing_things(self, tmp_path, text_file):
        with pytest.raises(ConfigError, match="no text file, no folder with text files and no dataset"):
            load(tmp_path / "nothing.txt")
        with pytest.raises(ConfigError, match="there is no text file"):
            load(text_file, test_data=str(tmp_path / "nothing.txt"))
        (tmp_path / "val.txt").write_text("text", encoding="utf8")
        with pytest.raises(ConfigError, match=r"no train text \(train.txt\); it holds val.txt.*--test-data"):
            load(tmp_path)

    def test_cleaning_must_leave_something(self, tmp_path):
        (tmp_path / "train.txt").write_text("<unk>", encoding="utf8")
        (tmp_path / "test.txt").write_text("a", encoding="utf8")
        with pytest.raises(ConfigError, match=r"training text of .* is empty"):
            load(tmp_path, clean="wikitext")


def test_join_stories():
    assert join_stories("One.\n\nTwo.\n<|endoftext|>\n\nThree.") == "One.\nTwo.\nThree."


def test_every_cleaning_that_the_settings_allow_exists():
    assert tuple(CLEANINGS) == config.CLEANINGS


def test_detokenise_wikitext():
    spaced = " He @-@ man 's 1 @,@ 000 @.@ 5 <unk> horses ( big ) , they 'll run .\n \n\n Next !"
    assert detokenise_wikitext(spaced) == " He-man's 1,000.5 horses ( big), they'll run.\n Next!"


class TestChunks:
    @given(length=st.integers(2, 60), context=st.integers(2, 9))
    def test_every_token_but_the_first_is_predicted_once_from_the_one_before(self, length, context):
        ids = torch.arange(length)
        chunks = TokenChunks(ids, context, num_bytes=length)
        real = chunks.targets != IGNORED
        assert torch.equal(chunks.targets[real], ids[1:])
        assert torch.equal(chunks.inputs[real], ids[:-1])
        assert chunks.num_targets == length - 1
        assert chunks.inputs.shape == chunks.targets.shape == (-(-(length - 1) // context), context)
        assert int(chunks.inputs.min()) >= 0

    def test_training_leaves_the_padded_example_out(self):
        chunks = TokenChunks(torch.arange(12), 4, num_bytes=12)
        assert len(chunks) == 3
        assert len(chunks.for_training(None)) == 2
        assert len(chunks.for_training(1)) == 1
        assert len(chunks) == 3  # the test view is unchanged
        assert len(TokenChunks(torch.arange(3), 4, num_bytes=3).for_training(None)) == 1  # a short text still trains

    def test_an_example_has_an_ignored_place_before_its_targets(self):
        example = TokenChunks(torch.arange(5), 4, num_bytes=5)[0]
        assert example["input_ids"].tolist() == [0, 1, 2, 3]
        assert example["labels"].tolist() == [IGNORED, 1, 2, 3, 4]

    def test_unknown_tokens_are_counted(self):
        assert TokenChunks(torch.tensor([1, 0, 0, 2]), 4, 4, unknown_id=0).unknown_share == 0.5

    def test_one_token_cannot_be_predicted(self):
        with pytest.raises(ConfigError, match="1 token"):
            TokenChunks(torch.tensor([3]), 4, 1)


class TestTokenise:
    def test_bytes_and_unknown_tokens(self, model_folder):
        tokenizer = load_tokenizer(str(model_folder))
        text = "the cat\n\nsat on ∑ mat\n"
        whole, lines = tokenise(text, tokenizer, 8), tokenise(text, tokenizer, 8, by_line=True)
        assert whole.num_bytes == len(text.encode())
        assert lines.num_bytes == len("the cat\nsat on ∑ mat\n".encode())
        assert lines.unknown_share > 0
        ids = tokenizer("the cat", add_special_tokens=False)["input_ids"]
        assert lines.inputs[0, : len(ids)].tolist() == ids

    def test_long_texts_are_cut_at_line_ends_and_lose_nothing(self, monkeypatch):
        monkeypatch.setattr("qpeft.training.data.PIECE_CHARS", 10)
        seen = []

        def spy(pieces, **options):
            seen.extend(pieces)
            return {"input_ids": [[1] * len(piece) for piece in pieces]}

        text = "short\nlines\n" + "x" * 25 + "\nend"
        tokenise(text, spy, 8)
        assert "".join(seen) == text
        assert max(map(len, seen)) <= 10
        assert seen[0] == "short\n"

    def test_read_text_keeps_the_text(self, text_file):
        assert read_text(text_file) == text_file.read_text(encoding="utf8")
