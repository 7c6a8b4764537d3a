import dataclasses
import gzip
import json
import pickle
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbp_jax.config import DataConfig, Experiment
from sbp_jax.data.corpus import Document, open_corpus, read_documents, verify_corpus, write_corpus
from sbp_jax.errors import UserError


def opened(spec, text_field="text"):
    return open_corpus(str(spec), Experiment(data=DataConfig(text_field=text_field)))


def documents(spec, **options):
    return list(read_documents(opened(spec, **options), "stop"))


def texts(spec, **options):
    return [document.text for document in documents(spec, **options)]


def errors(spec, **options):
    """What the rows that cannot be read are said to suffer from, and the texts of the others."""
    bad, good = [], []
    for shard in opened(spec, **options).shards:
        good += [document.text for document in shard.read(lambda error: bad.append(str(error)))]
    return bad, good


def zstd(data):
    return pa.Codec("zstd").compress(data, asbytes=True)


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


THREE = [Document(str(i), f"text {i} — é▁", "here", json.dumps({"i": i})) for i in range(3)]


class TestFiles:
    @pytest.mark.parametrize(
        "name, pack",
        [
            ("a.jsonl", bytes),
            ("a.json", bytes),
            ("a.jsonl.gz", gzip.compress),
            ("a.jsonl.zst", zstd),
            ("a.json.gz", lambda data: gzip.compress(data[:20]) + gzip.compress(data[20:])),
            ("a.json.zst", lambda data: zstd(data[:20]) + zstd(data[20:])),
        ],
    )
    def test_json_lines_are_read_plain_and_packed(self, tmp_path, name, pack):
        (tmp_path / name).write_bytes(pack(lines({"text": "eins"}, {"text": "zwei\n▁"}) + b"\n"))
        assert texts(tmp_path / name) == ["eins", "zwei\n▁"]

    def test_dclm_rows_are_known_by_their_warc_record(self, tmp_path):
        row = {
            "text": "page",
            "url": "http://a.example/",
            "metadata": {"WARC-Record-ID": "<urn:uuid:1>", "Content-Length": "7"},
            "fasttext_prob": 0.5,
        }
        (tmp_path / "shard.jsonl.zst").write_bytes(zstd(lines(row)))
        [document] = documents(tmp_path)
        assert (document.id, document.text) == ("<urn:uuid:1>", "page")
        del row["text"]
        assert json.loads(document.meta) == row

    def test_ids_fall_back_from_id_to_url_to_file_and_line(self, tmp_path):
        rows = [{"id": 0, "url": "u", "text": "a"}, {"url": "u", "text": "b"}, {"text": "c"}]
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "x.jsonl").write_bytes(lines(*rows))
        assert [d.id for d in documents(tmp_path)] == ["0", "u", "sub/x.jsonl:3"]

    def test_parquet_from_elsewhere_is_named_by_a_glob(self, tmp_path):
        table = {
            "body": ["a", "b"],
            "url": ["u1", None],
            "n": [1, 2],
            "metadata": [{"k": 1}, {"k": 2}],
        }
        pq.write_table(pa.table(table), tmp_path / "x.parquet")
        dictionary = pa.array(["c"]).dictionary_encode()
        pq.write_table(pa.table({"body": dictionary}), tmp_path / "y.parquet")
        found = documents(tmp_path / "*.parquet", text_field="body")
        assert [(d.id, d.text) for d in found] == [
            ("u1", "a"),
            ("x.parquet:2", "b"),
            ("y.parquet:1", "c"),
        ]
        with pytest.raises(
            UserError, match=r"Parquet files but no manifest\.json.*run.*again.*glob"
        ):
            opened(tmp_path)

    def test_a_folder_is_read_recursively_in_order_and_other_files_are_left_alone(self, tmp_path):
        (tmp_path / "b").mkdir()
        (tmp_path / ".git").mkdir()
        (tmp_path / "folder.txt").mkdir()
        for name, text in {
            "b/two.md": "two",
            "a.txt": "one",
            "c.jsonl": '{"text": "three"}',
            "picture.png": "x",
            ".hidden.txt": "x",
            ".git/y.txt": "x",
        }.items():
            (tmp_path / name).write_text(text)
        assert texts(tmp_path) == ["one", "two", "three"]
        assert [s.name for s in opened(tmp_path).shards] == ["a.txt", "b/two.md", "c.jsonl"]
        assert texts(tmp_path / "**" / "*.md") == ["two"]
        assert texts(tmp_path / "*") == ["one", "three"]
        assert texts(tmp_path / "b" / "two.md") == ["two"]

    def test_a_long_text_is_cut_at_blank_lines_and_loses_nothing_but_them(self, tmp_path):
        paragraphs = [f"paragraph {i} " + "word " * (i % 50) + "\nits end" for i in range(1500)]
        (tmp_path / "book.txt").write_text("\n\n".join(paragraphs))
        found = documents(tmp_path)
        assert "\n\n".join(d.text for d in found) == "\n\n".join(paragraphs)
        assert len(found) > 10
        assert all(4_000 <= len(d.text) < 5_000 for d in found[:-1])
        assert found[0].id == "book.txt:1"
        line = int(found[1].id.removeprefix("book.txt:"))
        assert (tmp_path / "book.txt").read_text().split("\n")[line - 1] == found[1].text.split(
            "\n"
        )[0]

    def test_a_text_of_64_kib_is_one_document_and_one_without_blank_lines_is_cut_too(
        self, tmp_path
    ):
        (tmp_path / "one.txt").write_text("line of words\n\n" * 4369)
        assert len(documents(tmp_path)) == 1
        (tmp_path / "one.txt").write_text("line of words\n" * 20_000)
        assert 4 < len(documents(tmp_path)) < 10

    @settings(max_examples=60, deadline=None)
    @given(
        words=st.lists(
            st.sampled_from(
                ["word", "é", "漢字", "。", "🙂", ". ", "? ", " ", "x" * 999, "\n", "\n\n"]
            ),
            min_size=1,
            max_size=12,
        ),
        glue=st.sampled_from(["", " ", "\n"]),
        ends=st.sampled_from(["", "\n", "\n\n\n"]),
    )
    def test_no_long_text_whatever_loses_characters_or_gives_a_document_over_64_kib(
        self, tmp_path_factory, words, glue, ends
    ):
        pattern = glue.join(words)
        text = pattern * (1 + 200_000 // len(pattern.encode())) + ends
        path = tmp_path_factory.mktemp("long") / "long.txt"
        path.write_text(text)
        bad, good = errors(path)
        assert not bad or not text.strip()
        assert "".join(good).replace("\n", "") == text.replace("\n", "") or not text.strip()
        assert all(len(piece.encode()) <= 64 * 1024 for piece in good)
        assert len(good) <= len(text.encode()) // 4_000 + 1

    @pytest.mark.parametrize(
        "sentence, end",
        [
            ("A sentence ends. And on ", ". "),
            ("eine 文が終わる。そして", "。"),
            ("and on and ", " "),
        ],
    )
    def test_a_text_of_one_line_is_cut_after_a_sentence_or_else_a_word(
        self, tmp_path, sentence, end
    ):
        text = sentence * 10_000
        (tmp_path / "line.txt").write_text(text)
        found = documents(tmp_path)
        assert "".join(d.text for d in found) == text and len(found) > 1
        assert all(d.text.endswith(end) for d in found[:-1])
        assert [d.id for d in found[:2]] == [
            "line.txt:1",
            f"line.txt:1:{len(found[0].text.encode()) + 1}",
        ]
        assert len({d.id for d in found}) == len(found)

    def test_a_document_that_begins_within_a_line_is_named_by_line_and_byte(self, tmp_path):
        lines_ = ["short", "x" * 100_000, "y" * 70_000]
        data = "\n".join(lines_).encode()
        (tmp_path / "a.txt").write_bytes(data)
        for document in documents(tmp_path):
            _, line, *byte = document.id.split(":")
            start = lines_[int(line) - 1][int(byte[0]) - 1 if byte else 0 :]
            assert start.startswith(document.text.split("\n")[0]), document.id

    def test_endings_may_be_in_capitals(self, tmp_path):
        (tmp_path / "A.TXT").write_text("one")
        (tmp_path / "B.JSONL").write_bytes(lines({"text": "two"}))
        (tmp_path / "C.Jsonl.GZ").write_bytes(gzip.compress(lines({"text": "three"})))
        assert texts(tmp_path) == ["one", "two", "three"]
        pq.write_table(pa.table({"text": ["four"]}), tmp_path / "D.PARQUET")
        assert texts(tmp_path / "D.PARQUET") == ["four"]
        with pytest.raises(UserError, match="holds Parquet files"):
            opened(tmp_path)

    def test_json_lines_may_begin_with_a_byte_order_mark(self, tmp_path):
        mark = "\ufeff".encode()
        (tmp_path / "a.jsonl").write_bytes(mark + lines({"text": "one"}, {"text": "\ufefftwo"}))
        (tmp_path / "b.jsonl").write_bytes(mark + b"\r\n" + lines({"text": "three"}))
        assert texts(tmp_path) == ["one", "\ufefftwo", "three"]

    @pytest.mark.parametrize(
        "manifest",
        ["{\n  'not': JSON", "[1]", '{"name": "app"}', '{"kind": "Deployment"}', "\xff"],
    )
    def test_a_manifest_of_others_leaves_a_folder_of_texts_what_it_is(self, tmp_path, manifest):
        (tmp_path / "a.txt").write_text("one")
        (tmp_path / "manifest.json").write_text(manifest, encoding="latin-1")
        assert texts(tmp_path) == ["one"]
        pq.write_table(pa.table({"text": ["a"]}), tmp_path / "x.parquet")
        with pytest.raises(UserError, match="no manifest.json of a finished corpus") as error:
            opened(tmp_path)
        assert "delete" not in str(error.value)
        with pytest.raises(UserError) as error:
            verify_corpus(tmp_path)
        assert "delete" not in str(error.value)

    def test_the_byte_order_mark_of_a_windows_text_is_no_part_of_it(self, tmp_path):
        (tmp_path / "notes.txt").write_bytes("one\r\n\r\ntwo\r\n".encode("utf-8-sig"))
        assert texts(tmp_path) == ["one\r\n\r\ntwo"]

    def test_the_fingerprint_follows_names_and_sizes_but_not_the_place(self, tmp_path):
        for place, text in {"here": "abc", "there": "abc", "other": "abcd"}.items():
            (tmp_path / place).mkdir()
            (tmp_path / place / "x.txt").write_text(text)
        here, there, other = (opened(tmp_path / p).fingerprint for p in ("here", "there", "other"))
        assert here == there != other
        (tmp_path / "there" / "x.txt").rename(tmp_path / "there" / "y.txt")
        assert opened(tmp_path / "there").fingerprint != here
        assert opened(tmp_path / "here", text_field="body").fingerprint != here

    def test_shards_survive_pickling(self, tmp_path):
        (tmp_path / "a.jsonl").write_bytes(lines({"text": "eins"}))
        [shard] = pickle.loads(pickle.dumps(opened(tmp_path).shards))
        assert [d.text for d in shard.read(pytest.fail)] == ["eins"]


class TestBadRows:
    @pytest.mark.parametrize(
        "line, reason",
        [
            (b'{"text": "\xff"}', "not valid UTF-8: invalid start byte at byte 10"),
            (b'{"text": "a"', "not valid JSON: Expecting ',' delimiter at column 13"),
            (b'["a"]', "a JSON object is expected on each line, not list"),
            (b"[" * 100_000, "recursion"),
            (b'{"body": "a", "x": 1}', "no field 'text' among body, x; --config.data.text_field="),
            (b'{"text": 7}', "field 'text' is int, not text"),
            (b'{"text": null}', "field 'text' is NoneType, not text"),
            (b'{"text": " \\n"}', "field 'text' is empty"),
            (b'{"text": "\\u0000\\u0000"}', "field 'text' holds NUL characters only"),
            (b'{"text": "\\ud800"}', "not valid Unicode"),
        ],
    )
    def test_a_json_line_is_named_with_its_reason_and_the_others_are_read(
        self, tmp_path, line, reason
    ):
        path = tmp_path / "a.jsonl"
        path.write_bytes(lines({"text": "before"}) + line + b"\n" + lines({"text": "after"}))
        [error], good = errors(path)
        assert error.startswith(f"{path}:2: ") and reason in error and "\n" not in error
        assert good == ["before", "after"]
        with pytest.raises(UserError, match="a.jsonl:2"):
            documents(path)
        assert [d.text for d in read_documents(opened(path), "skip")] == good

    @settings(max_examples=200, deadline=None)
    @given(noise=st.lists(st.binary(max_size=30)))
    def test_no_bytes_whatever_stop_a_reader_that_skips(self, tmp_path_factory, noise):
        folder = tmp_path_factory.mktemp("noise")
        for name in ("a.jsonl", "b.txt", "c.jsonl.gz", "d.jsonl.zst", "e.json"):
            (folder / name).write_bytes(b"\n".join([*noise, b'{"text": "good"}']))
        (folder / "f.parquet").write_bytes(b"".join(noise))
        bad, good = errors(folder / "*")
        assert sum(text.endswith("good") for text in good) >= 2
        assert all(str(folder) in error for error in bad)

    def test_parquet_rows_are_judged_one_by_one(self, tmp_path):
        column = pa.array([b"good", b"\xff", None, b" ", b"also"], pa.binary())
        invalid = pa.Array.from_buffers(pa.string(), 5, column.buffers())
        pq.write_table(pa.table({"text": invalid}), tmp_path / "x.parquet")
        bad, good = errors(tmp_path / "x.parquet")
        assert good == ["good", "also"]
        path = tmp_path / "x.parquet"
        assert [error.split(": ")[0] for error in bad] == [f"{path}:{row}" for row in (2, 3, 4)]

    def test_parquet_without_the_text_is_one_error_that_lists_the_columns(self, tmp_path):
        pq.write_table(pa.table({"body": ["a"] * 9, "n": [1] * 9}), tmp_path / "x.parquet")
        [error], good = errors(tmp_path / "x.parquet")
        assert "x.parquet: no field 'text' among body, n; --config.data.text_field=" in error

    def test_invalid_utf8_in_a_text_names_the_line_and_costs_one_piece_of_a_long_one(
        self, tmp_path
    ):
        (tmp_path / "a.txt").write_bytes(b"one\ntwo\n\xff three\n")
        [error], good = errors(tmp_path)
        assert error.startswith(f"{tmp_path}/a.txt:3: not valid UTF-8") and good == []
        pieces = [f"{i} ".encode() + b"word " * 800 for i in range(30)]
        pieces[7] += b"\n\xff\n"
        (tmp_path / "a.txt").write_bytes(b"\n\n".join(pieces))
        [error], good = errors(tmp_path)
        assert error.startswith(f"{tmp_path}/a.txt:16: not valid UTF-8") and len(good) == 29

    @pytest.mark.parametrize(
        "name", ["a.txt", "a.md", "a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"]
    )
    def test_an_empty_file_is_named(self, tmp_path, name):
        (tmp_path / name).write_bytes(b"")
        assert errors(tmp_path / name) == ([f"{tmp_path / name}: file is empty"], [])

    @pytest.mark.parametrize("name, pack", [("a.jsonl.gz", gzip.compress), ("a.jsonl.zst", zstd)])
    def test_a_cut_off_archive_is_named_after_what_could_be_read(self, tmp_path, name, pack):
        data = pack(lines(*({"text": f"{i * i}"} for i in range(50_000))))
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        bad, good = errors(tmp_path / name)
        assert any(f"{name}: damaged" in error for error in bad)
        assert good and good == [f"{i * i}" for i in range(len(good))]

    def test_a_file_that_is_no_parquet_is_named(self, tmp_path):
        (tmp_path / "x.parquet").write_bytes(b"PAR1 or not")
        [error], _ = errors(tmp_path / "x.parquet")
        assert "x.parquet: damaged, cannot be read as Parquet" in error and "\n" not in error

    def test_a_file_that_vanished_stops_even_a_reader_that_skips(self, tmp_path):
        (tmp_path / "a.txt").write_text("x")
        corpus = opened(tmp_path)
        (tmp_path / "a.txt").unlink()
        with pytest.raises(UserError, match="a.txt: cannot read: No such file"):
            list(read_documents(corpus, "skip"))


class TestNothingToRead:
    def test_a_missing_path_says_what_else_may_stand_there(self, tmp_path):
        with pytest.raises(
            UserError, match="nowhere: no such file or folder; .*toyworld, docstrings"
        ):
            opened(tmp_path / "nowhere")

    def test_a_folder_a_file_and_a_glob_without_readable_files_list_the_endings(self, tmp_path):
        (tmp_path / "x.png").write_bytes(b"x")
        for spec in (tmp_path, tmp_path / "x.png", tmp_path / "*.png"):
            with pytest.raises(UserError, match=r"nothing to read there: .*\.jsonl\.zst"):
                opened(spec)

    def test_the_folder_of_a_run_is_told_apart_from_texts(self, tmp_path):
        (tmp_path / "config.json").write_text("{}")
        (tmp_path / "a.txt").write_text("mine")
        assert [s.name for s in opened(tmp_path).shards] == ["a.txt", "config.json"]
        for sign in ("checkpoints", "metrics.jsonl"):
            (tmp_path / sign).mkdir()
            with pytest.raises(UserError, match=f"{tmp_path}: a run's folder, not a corpus"):
                opened(tmp_path)
            (tmp_path / sign).rmdir()

    @pytest.mark.parametrize("spec", ["hf:", "hf:a:b:c:d", "toyworld:heldout"])
    def test_misspelt_names_are_refused(self, spec):
        with pytest.raises(UserError, match=f"'{spec}'"):
            opened(spec)


class TestWrittenCorpus:
    @settings(max_examples=25, deadline=None)
    @given(
        rows=st.lists(
            st.builds(Document, *[st.text(min_size=1).filter(str.strip)] * 3, st.just("{}"))
        ),
        rows_per_shard=st.integers(1, 5),
    )
    def test_what_is_written_is_read_back(self, tmp_path_factory, rows, rows_per_shard):
        folder = tmp_path_factory.mktemp("corpus")
        manifest = write_corpus(rows, folder, rows_per_shard=rows_per_shard)
        assert documents(folder) == rows
        assert manifest["documents"] == len(rows) == sum(s["rows"] for s in manifest["shards"])
        assert manifest["bytes"] == sum(len(d.text.encode()) for d in rows)
        assert len(manifest["shards"]) == -(-len(rows) // rows_per_shard)
        verify_corpus(folder)

    def test_the_same_documents_give_the_same_bytes_and_the_manifest_keeps_extras(self, tmp_path):
        first = write_corpus(iter(THREE), tmp_path / "a", extras={"model": "m"})
        assert first == write_corpus(THREE, tmp_path / "b", extras={"model": "m"})
        assert first["model"] == "m" and first["kind"] == "corpus"
        assert json.loads((tmp_path / "a" / "manifest.json").read_text()) == first
        assert opened(tmp_path / "a").fingerprint == opened(tmp_path / "b").fingerprint

    def test_the_text_field_of_other_files_does_not_matter_to_it(self, tmp_path):
        write_corpus(THREE, tmp_path)
        assert documents(tmp_path, text_field="body") == THREE

    def test_a_writer_that_dies_leaves_no_corpus(self, tmp_path):
        write_corpus(THREE, tmp_path)

        def dying():
            yield THREE[0]
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write_corpus(dying(), tmp_path, rows_per_shard=1)
        with pytest.raises(UserError, match="no manifest.json"):
            opened(tmp_path)

    def test_a_smaller_corpus_replaces_a_larger_one(self, tmp_path):
        write_corpus(THREE, tmp_path, rows_per_shard=1)
        write_corpus(THREE[:1], tmp_path, rows_per_shard=1)
        assert documents(tmp_path) == THREE[:1]

    def test_damage_is_named(self, tmp_path):
        write_corpus(THREE, tmp_path, rows_per_shard=2)
        victim = tmp_path / "part-00001.parquet"
        whole = victim.read_bytes()
        victim.write_bytes(whole[:50] + bytes([whole[50] ^ 1]) + whole[51:])
        with pytest.raises(UserError, match=r"part-00001\.parquet: damaged"):
            verify_corpus(tmp_path)
        victim.write_bytes(whole[:-1])
        with pytest.raises(UserError, match=r"part-00001\.parquet: \d+ bytes, the manifest says"):
            opened(tmp_path)
        victim.unlink()
        with pytest.raises(UserError, match=r"part-00001\.parquet: missing"):
            opened(tmp_path)

    def test_a_stray_shard_and_a_false_row_count_are_refused(self, tmp_path):
        manifest = write_corpus(THREE, tmp_path)
        (tmp_path / "stray.parquet").write_bytes(b"x")
        with pytest.raises(UserError, match=r"stray\.parquet: not in the manifest"):
            opened(tmp_path)
        (tmp_path / "stray.parquet").unlink()
        manifest["shards"][0]["rows"] = 4
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(UserError, match="3 rows, its manifest says 4"):
            list(read_documents(opened(tmp_path), "skip"))

    def test_a_folder_of_another_kind_is_refused(self, tmp_path):
        (tmp_path / "manifest.json").write_text('{"kind": "tokens"}')
        with pytest.raises(UserError, match="holds tokens, not a corpus"):
            opened(tmp_path)


@pytest.fixture(scope="module")
def corpus():
    return opened("docstrings")


class TestDocstrings:
    def test_a_package_yields_its_long_docstrings_once_each_without_being_imported(self, corpus):
        assert "wave" not in sys.modules or sys.modules.pop("wave")
        [shard] = [s for s in corpus.shards if s.name == "wave"]
        found = list(pickle.loads(pickle.dumps(shard)).read(pytest.fail))
        assert "wave" not in sys.modules
        assert found[0].id == "wave" and "WAVE files" in found[0].text
        assert {d.source for d in found} == {"wave"}
        assert all(len(d.text) >= 200 for d in found)

    def test_packages_are_walked_and_every_read_gives_the_same(self, corpus):
        shards = {s.name: s for s in corpus.shards}
        assert list(shards) == sorted(shards) and {"asyncio", "absl"} <= set(shards)
        found = list(shards["asyncio"].read(pytest.fail))
        assert found == list(shards["asyncio"].read(pytest.fail))
        assert "asyncio.queues.Queue" in {d.id for d in found}
        assert len({d.text for d in found}) == len(found)
        assert opened("docstrings") == corpus


def test_a_local_hugging_face_folder_is_streamed_with_its_rows_judged(tmp_path):
    pytest.importorskip("datasets")
    for split in ("train", "validation"):
        for part in range(2):
            rows = [{"body": f"{split} {part} {i}", "source": "s"} for i in range(3)]
            (tmp_path / f"{split}-{part}.jsonl").write_bytes(lines(*rows))
    with open(tmp_path / "train-1.jsonl", "ab") as f:
        f.write(lines({"body": "", "source": "s"}))
    bad, good = errors(f"hf:{tmp_path}", text_field="body")
    assert sorted(good) == [f"train {p} {i}" for p in range(2) for i in range(3)]
    assert len(bad) == 1 and "row 4: field 'body' is empty" in bad[0]
    assert len(texts(f"hf:{tmp_path}:validation", text_field="body")) == 6
    corpus = opened(f"hf:{tmp_path}:default:train")
    assert len({s.name for s in corpus.shards}) == len(corpus.shards) == 2
    assert pickle.loads(pickle.dumps(corpus)) == corpus
    with pytest.raises(UserError, match="split nosuch: cannot load"):
        opened(f"hf:{tmp_path}:nosuch")


def test_seqio_tasks_and_mixtures_are_read_as_text(tmp_path, monkeypatch, trained_model):
    pytest.importorskip("seqio")
    for part in range(2):
        (tmp_path / f"part{part}.txt").write_text("".join(f"line {part} {i}\n" for i in range(3)))
    files = [str(tmp_path / f"part{part}.txt") for part in range(2)]
    module = f"""
import functools, seqio
from seqio.preprocessors import append_eos, rekey, tokenize
vocabulary = seqio.SentencePieceVocabulary({str(trained_model)!r})
features = {{"targets": seqio.Feature(vocabulary, add_eos=True)}}
source = seqio.TextLineDataSource({{"train": {files!r}}})
to_text = lambda lines: lines.map(lambda line: {{"text": line}})
to_targets = functools.partial(rekey, key_map={{"targets": "text"}})
steps = [to_text, to_targets, tokenize, append_eos]
forgetful = [to_text, to_targets, functools.partial(tokenize, copy_pretokenized=False), append_eos]
add = seqio.TaskRegistry.add
add("kept_text", source=source, output_features={{}}, preprocessors=[to_text])
add("pretokenized", source=source, output_features=features, preprocessors=steps)
add("ids_only", source=source, output_features=features, preprocessors=forgetful)
seqio.MixtureRegistry.add("both", ["pretokenized", "ids_only"], default_rate=1)
"""
    (tmp_path / "sbp_test_tasks.py").write_text(module)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match="seqio:kept_text: no such task"):
        opened("seqio:kept_text")
    expected = [f"line {part} {i}" for part in range(2) for i in range(3)]
    for task in ("kept_text", "pretokenized", "ids_only"):
        corpus = opened(f"seqio:sbp_test_tasks:{task}")
        assert len(corpus.shards) == 2
        assert sorted(d.text for d in read_documents(corpus, "stop")) == expected
    assert set(texts("seqio:sbp_test_tasks:both")) <= set(expected)
    with pytest.raises(UserError, match="cannot import sbp_no_such_module"):
        opened("seqio:sbp_no_such_module:x")


@pytest.fixture(scope="module")
def trained_model(tmp_path_factory):
    from sbp_jax.data.tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["line 0 1 2 and so on"] * 10, 275, folder)
    return folder / "tokenizer.model"


def test_the_toy_world_is_opened_by_split():
    pytest.importorskip("sbp_jax.data.toyworld")
    small = dataclasses.replace(Experiment().toyworld, documents=20, held_out_documents=5)
    experiment = Experiment(toyworld=small)
    train, held_out = (open_corpus(s, experiment) for s in ("toyworld", "toyworld:held_out"))
    assert train.fingerprint != held_out.fingerprint
    assert len(list(read_documents(held_out, "stop"))) == 5
