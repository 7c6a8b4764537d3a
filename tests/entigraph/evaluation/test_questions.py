"""Question files: QuALITY's form, and what is said of files that are not in it."""

import json

import pytest

from entigraph.evaluation.questions import fingerprint, line_of, read_questions, shown, split
from sbp_jax.errors import UserError


def question(id, label=1, **fields):
    options = [f"{id} option {n}" for n in range(4)]
    return {
        "question": f"What of {id}?", "options": options, "gold_label": label, "difficult": 0,
        "question_unique_id": id, "writer_label": 3, "validation": [],
    } | fields  # fmt: skip


def row(title, *questions, **fields):
    return {
        "article_id": title, "title": title, "author": "A. Writer", "year": 1951,
        "article": f"The text of {title}.", "questions": list(questions),
    } | fields  # fmt: skip


def written(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def refused(path):
    with pytest.raises(UserError) as caught:
        read_questions(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_lines_of_two_writers_are_one_article(tmp_path):
    path = written(
        tmp_path / "q.jsonl",
        row("Beta", question("b1", 4)),
        row("Alpha", question("a1"), question("a2", 2, difficult=1), author="Other"),
        row("Beta", question("b2", 3)),
        row("Alpha", question("a3"), article_id="alpha2"),  # another author's
    )
    found = read_questions(path)
    assert [(a.text.title, a.text.author) for a in found] == [
        ("Alpha", "A. Writer"), ("Alpha", "Other"), ("Beta", "A. Writer"),
    ]  # fmt: skip
    beta = found[2]
    assert [(q.id, q.gold) for q in beta.questions] == [("b1", 3), ("b2", 2)]
    assert beta.text.text == "The text of Beta." and beta.text.year == "1951"
    assert [q.difficult for q in found[1].questions] == [False, True]


def test_several_files_are_one_set_and_no_question_is_in_it_twice(tmp_path):
    train = written(tmp_path / "train.jsonl", row("Alpha", question("a1")))
    dev = written(tmp_path / "dev.jsonl", row("Alpha", question("a2")), row("Beta", question("b")))
    assert [len(a.questions) for a in read_questions(f"{train}, {dev}")] == [2, 1]
    assert refused(f"{train},{train}") == f"{train}:1: question_unique_id 'a1' is there twice"


def test_a_file_of_ones_own_needs_no_more_than_titles_and_questions(tmp_path):
    bare = {"question": "Who?", "options": ["a", "b", "c", "d"], "gold_label": 2}
    path = tmp_path / "q.jsonl"
    path.write_text("\ufeff" + json.dumps({"title": "Notes", "questions": [bare, bare]}) + "\n\n")
    (article,) = read_questions(str(path))
    first, second = article.questions
    assert first.difficult is None and first.id != second.id
    assert article.text.text == article.text.author == ""


def test_what_is_written_is_read_again(tmp_path):
    rows = [row("Alpha", question("a1", 2)), row("Béta", question("b1"), question("b2"))]
    articles = read_questions(written(tmp_path / "q.jsonl", *rows))
    (tmp_path / "again.jsonl").write_text("".join(map(line_of, articles)))
    again = read_questions(str(tmp_path / "again.jsonl"))
    assert again == articles and fingerprint(again) == fingerprint(articles)


def test_the_first_fifth_of_the_titles_is_for_validation(tmp_path):
    titles = [f"T{number:03}" for number in range(265)]
    rows = [row(title, question(title)) for title in reversed(titles)]
    articles = read_questions(written(tmp_path / "q.jsonl", *rows))
    names = {name: [a.text.title for a in split(articles, name)] for name in ("validation", "test")}
    assert names == {"validation": titles[:53], "test": titles[53:]}
    assert split(articles, "all") == articles
    assert [len(split(articles[:2], name)) for name in ("validation", "test")] == [1, 1]
    with pytest.raises(UserError, match="the validation split is empty"):
        split(articles[:1], "validation")


def test_a_question_is_shown_with_its_heading_and_lettered_choices(tmp_path):
    (article,) = read_questions(written(tmp_path / "q.jsonl", row("Alpha", question("a1"))))
    assert shown(article, article.questions[0]).split("\n") == [
        'Text: "Alpha", by A. Writer (1951)',
        "Question: What of a1?",
        "A. a1 option 0",
        "B. a1 option 1",
        "C. a1 option 2",
        "D. a1 option 3",
    ]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "list where an article's object should be"),
        (row(""), "no title"),
        (row("Beta"), "questions is no list with questions in it"),
        (row("Beta", "Who?"), "question 1: str where an object should be"),
        (row("Beta", question("b1"), question("b2", 5)), "question 2: gold_label is 5"),
        (row("Beta", question("b1", 0)), "question 1: gold_label is 0; .* from 1 to 4"),
        (row("Beta", question("b1", None)), "gold_label is None"),
        (row("Beta", question("b1", True)), "gold_label is True"),
        (row("Beta", question("b1", options=["x"] * 3)), "3 options; there should be 4"),
        (row("Beta", question("b1", options=["x", "y", "", "z"])), "options is no list of texts"),
        (row("Beta", question("b1", question=" ")), "question is no text"),
        (row("Beta", question("b1", difficult=2)), "difficult is 2"),
        (row("Beta", question("b1"), article=3), "article is no text"),
        (row("Beta", question("b1"), article_id="Alpha"), "'Alpha' is another article's"),
        (row("Alpha", question("b1"), article="Other."), "another text than before under"),
        (row("Beta", question("a1")), "'a1' is there twice"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, bad, reason):
    path = tmp_path / "q.jsonl"
    good = json.dumps(row("Alpha", question("a1")))
    path.write_text(f"{good}\n{bad if isinstance(bad, str) else json.dumps(bad)}\n")
    message = refused(str(path))
    assert message.startswith(f"{path}:2: ")
    with pytest.raises(UserError, match=reason):
        read_questions(str(path))


def test_files_that_cannot_be_read_are_named(tmp_path):
    assert "no.jsonl: cannot read" in refused(str(tmp_path / "no.jsonl"))
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe\x00")
    assert "not valid UTF-8" in refused(str(tmp_path / "bytes.jsonl"))
    (tmp_path / "empty.jsonl").write_text("\n")
    assert "no question in it" in refused(str(tmp_path / "empty.jsonl"))
