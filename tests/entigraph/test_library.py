"""Texts with their headings, out of whatever a library lies in."""

import json

import pytest

from entigraph.library import Text, read_library
from sbp_jax.config import Experiment
from sbp_jax.data.corpus import Document, write_corpus
from sbp_jax.errors import UserError

EXPERIMENT = Experiment()


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def article(id, title, author, writer, **fields):
    return {
        "article_id": id, "set_unique_id": f"{id}_{writer}", "title": title, "author": author,
        "year": 1954, "article": f"The text of {title}.",
        "questions": [{"question": f"By {writer}?"}],
    } | fields  # fmt: skip


def test_quality_has_an_article_once_whoever_wrote_its_questions(tmp_path):
    rows = [
        article("1", "Dawn", "Ann", "w1"),
        article("2", "Dusk", "Bob", "w1", year=None),
        article("1", "Dawn", "Ann", "w2"),
        article("3", "Dawn", "Carl", "w2"),
    ]
    texts = read_library(jsonl(tmp_path / "dev.jsonl", rows), EXPERIMENT)
    assert texts[:2] == [
        Text("1", "Dawn", "Ann", "1954", "The text of Dawn."),
        Text("2", "Dusk", "Bob", "", "The text of Dusk."),
    ]
    assert [text.id for text in texts] == ["1", "2", "3"]
    assert [t.heading for t in texts[:2]] == ['"Dawn", by Ann (1954)', '"Dusk", by Bob']


def test_a_title_comes_from_the_meta_the_first_line_or_the_id(tmp_path):
    write_corpus(
        [
            Document("a", "Text.", meta='{"title": "Of\\n A", "author": null, "year": 7}'),
            Document("b", "# Of B\n\nText."),
            Document("c", "One line only", meta="no JSON"),
            Document("d", "long " * 40 + "\nline"),
        ],
        tmp_path / "corpus",
    )
    texts = read_library(str(tmp_path / "corpus"), EXPERIMENT)
    assert [text.title for text in texts] == ["Of A", "Of B", "c", "d"]
    assert [text.heading for text in texts] == ['"Of A" (7)', '"Of B"', '"c"', '"d"']


def test_a_folder_of_text_files_is_a_library(tmp_path):
    (tmp_path / "one.txt").write_text("First\nand more.")
    (tmp_path / "two.md").write_text("Nothing but this.")
    texts = read_library(str(tmp_path), EXPERIMENT)
    assert [(t.id, t.title) for t in texts] == [("one.txt", "First"), ("two.md", "two.md")]


def test_rows_with_a_text_of_their_own_are_no_quality(tmp_path):
    rows = [{"id": "x", "text": "Mine.", "article": "Another."}]
    assert read_library(jsonl(tmp_path / "a.jsonl", rows), EXPERIMENT)[0].text == "Mine."


def test_two_texts_of_one_id_are_refused_by_name(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [{"id": "x", "text": "A"}, {"id": "x", "text": "B"}])
    with pytest.raises(UserError, match="two documents have the id 'x'"):
        read_library(path, EXPERIMENT)
