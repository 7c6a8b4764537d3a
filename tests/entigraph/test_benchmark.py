"""Questions written and checked by a scripted server: what is left out, and why."""

import json
import re
import subprocess
import sys
from pathlib import Path

from entigraph.evaluation.questions import read_questions
from entigraph.evaluation.summaries import _claims, _verdict
from tests.entigraph.conftest import message

ROOT = Path(__file__).parents[2]
FACTS = {"whale": "gold", "mast": "oak", "boat": "blue", "sea": "calm"}


def command(module, *arguments):
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def config(folder, server):
    (folder / "config.py").write_text(
        "from sbp_jax.config import new_config\n\n\ndef get_config():\n    config = new_config()\n"
        f"    config.api.url = {server.url!r}\n    config.api.model = 'm'\n    return config\n"
    )
    return f"--config={folder}/config.py"


def row(subject, right=""):
    wrong = [f"{subject} choice {n}" for n in range(3)]
    right = right or FACTS[subject]
    return {"question": f"What is the {subject}?", "right": right, "wrong": wrong}


def choices(prompt):
    return dict((text, letter) for letter, text in re.findall(r"^([A-D])\. (.+)$", prompt, re.M))


def test_questions_are_kept_that_the_text_answers_and_nothing_else_does(serve, tmp_path):
    (tmp_path / "docs").mkdir()
    for name in ("one", "two"):
        (tmp_path / "docs" / f"{name}.md").write_text(
            f"# Tale {name}\n" + " ".join(f"The {s} is {v}." for s, v in FACTS.items())
        )

    def script(sent):
        prompt = sent.prompt
        if "multiple-choice questions" in prompt:
            if "Tale two" in prompt:
                return message("I would rather not.")  # after mending, an error
            rows = [
                row("whale"), row("mast"), row("boat"), row("sea"),
                row("whale", "silver"),  # the same question once more
                row("keel", "Keel choice 1"),  # two choices are equal
                row("crew", "many"),  # the text does not say
            ]  # fmt: skip
            return message("```json\n" + json.dumps({"questions": rows}) + "\n```")
        subject = re.findall(r"What is the (\w+)\?", prompt)[-1]
        options = choices(prompt)
        if "TEXT\n" in prompt:
            return message(f"Answer: {options.get(FACTS.get(subject), 'A')}.")
        if subject == "sea":  # known to everybody
            return message(f"Answer: {options['calm']}.")
        return message("Answer: B.")  # a liking for a letter

    server = serve(script)
    flags = [config(tmp_path, server), "--engine=api", f"--input={tmp_path}/docs"]
    flags += [f"--output={tmp_path}/questions.jsonl"]
    dry = command("entigraph.benchmark", *flags, "--dry_run")
    assert dry.returncode == 0 and "requests       2" in dry.stdout and not server.seen
    done = command("entigraph.benchmark", *flags)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "questions.jsonl.report.json").read_text())
    assert {name: value for name, value in report.items() if name != "fingerprint"} == {
        "windows": 2, "malformed_answers": 1, "written": 7, "malformed": 1, "repeated": 1,
        "not_answerable_with": 1, "answerable_without": 1, "kept": 3, "articles": 1,
    }  # fmt: skip
    (article,) = read_questions(str(tmp_path / "questions.jsonl"))
    assert article.text.title == "Tale one" and "The whale is gold." in article.text.text
    kept = {q.text: q.options[q.gold] for q in article.questions}
    assert kept == {f"What is the {s}?": FACTS[s] for s in ("whale", "mast", "boat")}
    assert all(q.difficult is None for q in article.questions)
    # Each check turns the choices, and the same command asks nothing.
    with_text = [p for p in server.prompts if p.startswith("TEXT") and "Answer this" in p]
    assert len(with_text) == 2 * 5 and len(set(with_text)) == 10
    whale = [choices(p)["gold"] for p in with_text if "What is the whale?" in p]
    assert len(set(whale)) == 2
    asked = len(server.seen)
    assert command("entigraph.benchmark", *flags).returncode == 0 and len(server.seen) == asked


def test_summaries_are_counted_against_the_reference(serve, tmp_path):
    articles = [
        {
            "article_id": f"id{n}", "title": f"Tale {n}", "article": f"The text of tale {n}.",
            "questions": [{"question": "?", "options": list("wxyz"), "gold_label": 1}],
        }
        for n in range(4)
    ]  # fmt: skip
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(a) + "\n" for a in articles))
    (tmp_path / "r.jsonl").write_text(
        "".join(
            json.dumps({"article_id": f"id{n}", "summary": f"reference {n}"}) + "\n"
            for n in range(3)
        )
    )

    def script(sent):
        prompt = sent.prompt
        if prompt.startswith("Give a short summary"):
            return message("of the model" if '"Tale 2"' not in prompt else " ")
        if prompt.startswith("Take the following summary apart"):
            if "reference" in prompt:
                return message("- big one\n- big two\n- small one\n- wrong one")
            return message("1. big one\n2. small one\n3. wrong one\n4. odd one")
        claim = re.search(r"CLAIM\n(\w+)", prompt)[1]
        assert re.search(r"The text of tale \d\.", prompt)
        words = {"big": "Salient.", "small": "cosmetic", "wrong": "**false**", "odd": "perhaps"}
        return message(words[claim])

    server = serve(script)
    flags = [config(tmp_path, server), "--engine=api", "--judge=api", "--mode=summaries", "--chat"]
    flags += [f"--questions={tmp_path}/q.jsonl", f"--references={tmp_path}/r.jsonl"]
    done = command("entigraph.evaluate", *flags, f"--output={tmp_path}/w")
    assert done.returncode == 0, done.stderr
    entry = json.loads((tmp_path / "w" / "results.json").read_text())["tasks"]["summaries"]
    values = {name: metric["value"] for name, metric in entry["metrics"].items()}
    # The third summary is empty: of three references with four claims each, two are matched.
    assert values == {"claims": 8 / 12, "factual": 4 / 9, "salient": 2 / 6, "false": 2 / 3}
    found = entry["summaries"]
    assert found["articles"] == 3 and found["no_summary"] == 1 and found["unclear"] == 2
    assert found["totals"]["model"]["salient"] == 2 and found["totals"]["reference"]["false"] == 3
    assert "summaries, of the reference's count" in done.stdout


def test_claims_are_lines_and_verdicts_words():
    assert _claims("1. a b\n\n- c\n* d\n(2) e\n---\n- c") == ["a b", "c", "d", "e"]
    assert [_verdict(t) for t in ("Salient", "It is false.", "x", "")] == [
        "salient", "false", "unclear", "unclear",
    ]  # fmt: skip
