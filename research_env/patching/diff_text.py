"""The three ways in which a change may be written, read into one form.

1. Unified diffs, git's with their headers or plain ones; the counts of a hunk need not be right.
2. Blocks, each under the path of its file where there is more than one that may be changed:
       <<<<<<< SEARCH
       lines as they are
       =======
       lines as they shall be
       >>>>>>> REPLACE
3. Whole files: a line with the path, then the text between lines of three or more backticks.

Prose around them, as language models write it, is passed over.
"""

import codecs
import re
from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import NamedTuple


class Hunk(NamedTuple):
    body: list[tuple[str, str]]  # " ", "-" or "+", and a line with its end
    start: int | None  # of its old lines, from 0; None: found by its text alone
    label: str  # for messages

    @property
    def old(self) -> list[str]:
        return [line for tag, line in self.body if tag != "+"]

    @property
    def new(self) -> list[str]:
        return [line for tag, line in self.body if tag != "-"]


class Change(NamedTuple):
    """Of one file."""

    source: str | None  # None: it is new
    target: str | None  # None: it is deleted
    hunks: tuple[Hunk, ...] = ()
    content: str | None = None  # the whole file
    mode: str = ""  # git's, where it says one
    keeps_source: bool = False  # a copy
    in_blocks: bool = False  # whether a file that is not there yet is meant to be made


class Unreadable(ValueError):
    """No change can be read from the text; says why."""


_FENCE = re.compile(r"(`{3,})([^`]*)")
_SEARCH = re.compile(r"<{5,} ?SEARCH")
_MIDDLE = re.compile(r"={5,}")
_REPLACE = re.compile(r">{5,} ?REPLACE")
_NUMBERS = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
_NAMED = re.compile(r"[#*>`\"'\s]*(?:(?:new )?(?:file|path)(?:name)?\s*:)?[*`\"'\s]*"
                    r"([^\s`*\"':<>|]*[./][^\s`*\"':<>|]*)[`*\"':\s]*", re.IGNORECASE)  # fmt: skip
_MODE = re.compile(r"(?:new file|deleted file|new) mode (\d{6})")
_OTHER_HEADERS = ("index ", "similarity index ", "dissimilarity index ", "old mode ")


def changes(text: str, only_file: str | None = None) -> list[Change]:
    """What the text changes, in its order. `only_file` is meant where a block names none."""
    lines = text.split("\n")
    sent_so = any(_begins_file(lines, i) and lines[i].endswith("\r") for i in range(len(lines)))
    if sent_so or all(line.endswith("\r") for line in lines if line):  # and not the file's own ends
        lines = [line.removesuffix("\r") for line in lines]
    blocks = any(_SEARCH.fullmatch(line.rstrip()) for line in lines)  # not a hunk's own line
    unified = any(_begins_file(lines, i) for i in range(len(lines)))
    found = list(_unified(lines) if unified and not blocks else _blocks(lines, only_file))
    if not found:
        raise Unreadable(
            "no change found; write a unified diff with ---, +++ and @@ lines, SEARCH/REPLACE "
            "blocks, or whole files"
        )
    return found


# Unified diffs


def _begins_file(lines: list[str], i: int) -> bool:
    if lines[i].startswith("diff --git "):
        return True
    pair = lines[i : i + 2]
    return len(pair) == 2 and pair[0].startswith("--- ") and pair[1].startswith("+++ ")


def _unified(lines: list[str]) -> Iterator[Change]:
    i = 0
    passed = ""
    while i < len(lines):
        if _begins_file(lines, i):
            change, i = _file(lines, i)
            yield change
            passed = ""
        elif lines[i].startswith("@@"):
            between = f" ({passed!r} ended the one before)" if passed else ""
            raise Unreadable(
                f"{lines[i]!r}: a hunk outside a file; each line of a hunk begins with a space, + "
                f"or -, and each file with --- and +++ lines{between}"
            )
        else:
            passed = passed or lines[i].strip()
            i += 1


def _file(lines: list[str], i: int) -> tuple[Change, int]:
    source: str | None = None
    target: str | None = None
    mode, keeps_source, new, gone, git = "", False, False, False, False
    if lines[i].startswith("diff --git "):
        git = True
        source, target = _git_paths(lines[i].removeprefix("diff --git "))
        i += 1
        while i < len(lines):
            line = lines[i]
            if found := _MODE.match(line):
                mode = found[1]
                new, gone = new or line.startswith("new file"), gone or line.startswith("deleted")
            elif line.startswith(("rename from ", "copy from ")):
                source, keeps_source = _unquoted(line.split(" from ", 1)[1]), line[0] == "c"
            elif line.startswith(("rename to ", "copy to ")):
                target = _unquoted(line.split(" to ", 1)[1])
            elif line.startswith(("Binary files ", "GIT binary patch")):
                raise Unreadable(f"{target}: a binary change; only text can be changed")
            elif not line.startswith(_OTHER_HEADERS):
                break
            i += 1
        source, target = None if new else source, None if gone else target
    if i < len(lines) and _begins_file(lines, i) and lines[i].startswith("--- "):
        old, new_path = _header_path(lines[i][4:]), _header_path(lines[i + 1][4:])
        if (old is None or old.startswith("a/")) and (
            new_path is None or new_path.startswith("b/")
        ):
            old, new_path = old and old[2:], new_path and new_path[2:]
        i += 2
        if (source or target) and {old, new_path} - {source, target, None}:
            raise Unreadable(f"{target or source}: its headers disagree on its path")
        source, target = old, new_path
        if not git and source and target:
            source = target  # `--- train.py.orig` and the like
    if source is None and target is None:
        raise Unreadable("a diff header that names no file")
    hunks: list[Hunk] = []
    while i < len(lines) and lines[i].startswith("@@"):
        hunk, i = _hunk(lines, i, len(hunks) + 1)
        hunks.append(hunk)
        while i < len(lines) and not lines[i].strip():
            i += 1
    if not hunks and source == target and not mode:
        raise Unreadable(f"{target}: no hunk follows its header; each begins with @@")
    return Change(source, target, tuple(hunks), None, mode, keeps_source), i


def _git_paths(both: str) -> tuple[str | None, str | None]:
    """Of `a/x b/x`; where the two differ, the lines below say so."""
    if both.startswith('"'):
        parts = re.findall(r'"(?:[^"\\]|\\.)*"|\S+', both)
        if len(parts) == 2:
            return _unquoted(parts[0])[2:], _unquoted(parts[1])[2:]
        return None, None
    middle = len(both) // 2
    old, new = both[:middle], both[middle + 1 :]
    return (old[2:], new[2:]) if old[2:] == new[2:] else (None, None)


def _header_path(text: str) -> str | None:
    path = _unquoted(text.split("\t")[0].rstrip())
    return None if path == "/dev/null" else path


def _unquoted(path: str) -> str:
    if len(path) > 1 and path[0] == path[-1] == '"':
        raw = codecs.escape_decode(path[1:-1].encode())[0]  # type: ignore[attr-defined]
        return raw.decode(errors="replace")
    return path


def _hunk(lines: list[str], i: int, number: int) -> tuple[Hunk, int]:
    numbers = _NUMBERS.match(lines[i])
    label = f"hunk {number}"
    counted = None
    start = None
    if numbers:
        first, old, _, new = (1 if n is None else int(n) for n in numbers.groups())
        counted = _counted(lines, i + 1, old, new)
        start = first if old == 0 else max(first - 1, 0)
        label += f" (line {first})"
    body, end = counted or _recounted(lines, i + 1)
    if counted is None and _is_cut(lines, end):
        raise Unreadable(f"{label}: {lines[end]!r} begins with neither a space nor + nor -")
    if not any(tag in "+-" for tag, _ in body):
        raise Unreadable(
            f"{label}: it changes nothing; lines to add begin with +, to remove with -"
        )
    if counted is None and all(tag == "+" for tag, _ in body):
        start = start if numbers and numbers[2] == "0" else None
    return Hunk(body, start, label), end


def _counted(
    lines: list[str], i: int, old: int, new: int
) -> tuple[list[tuple[str, str]], int] | None:
    """The body if the header's counts are right."""
    body: list[tuple[str, str]] = []
    end = len(lines) - (lines[-1] == "")
    while old > 0 or new > 0:
        tag = (lines[i][:1] or " ") if i < end else "no more"
        if tag not in " +-\\":
            return None
        old -= tag in " -"
        new -= tag in " +"
        if old < 0 or new < 0:
            return None
        _add(body, lines[i])
        i += 1
    if i < len(lines) and lines[i].startswith("\\"):
        _add(body, lines[i])
        i += 1
    after = i
    while after < len(lines) and not lines[after]:  # a line of context may have lost its space
        after += 1
    more = after < len(lines) and lines[after][0] in "+- " and not _begins_file(lines, after)
    if more and lines[after] != "-- ":
        return None  # its counts were too small
    return body, i


def _recounted(lines: list[str], i: int) -> tuple[list[tuple[str, str]], int]:
    """All that looks like a hunk's."""
    body: list[tuple[str, str]] = []
    blank = 0  # at the end, without even a space: no part of it
    while i < len(lines) and (lines[i][:1] or " ") in " +-\\" and not _begins_file(lines, i):
        _add(body, lines[i])
        blank = 0 if lines[i] else blank + 1
        i += 1
    return body[: len(body) - blank], i


def _is_cut(lines: list[str], i: int) -> bool:
    """Whether more of a hunk follows its end: half of a change must not pass for the whole."""
    if i < len(lines) and lines[i].startswith(("@@", "```", "diff ", "Index: ")):
        return False
    while i < len(lines) and not lines[i].startswith(("@@", "```")) and not _begins_file(lines, i):
        if lines[i][:1] in ("+", "-") and lines[i] != "-- ":
            return True
        i += 1
    return False


def _add(body: list[tuple[str, str]], line: str) -> None:
    if line.startswith("\\"):  # "\ No newline at end of file"
        if body:
            body[-1] = (body[-1][0], body[-1][1].removesuffix("\n"))
    else:
        body.append((line[:1] or " ", line[1:] + "\n"))


# Blocks and whole files


def _blocks(lines: list[str], only_file: str | None) -> Iterator[Change]:
    path = only_file
    named_at = -9
    i = number = 0
    while i < len(lines):
        line = lines[i].strip()
        if _SEARCH.fullmatch(line):
            number += 1
            old, new, i = _block(lines, i, number)
            if path is None:
                raise Unreadable(f"block {number}: write the path of its file on the line above")
            hunk = Hunk(_compared(old, new), None, f"block {number}")
            if old == new:
                raise Unreadable(f"{hunk.label}: both halves are the same, so it changes nothing")
            yield Change(path, path, (hunk,), in_blocks=True)
        elif fence := _FENCE.fullmatch(line):
            searches = any(_SEARCH.fullmatch(text.strip()) for text in lines[i + 1 : i + 4])
            close = i + 1
            while close < len(lines) and lines[close].strip() != fence[1]:
                close += 1
            fresh = not any(text.strip() for text in lines[named_at + 1 : i])
            if named_at >= 0 and fresh and not searches and path is not None:
                if close == len(lines):
                    raise Unreadable(f"{path}: its text has no closing {fence[1]}")
                content = "".join(text + "\n" for text in lines[i + 1 : close])
                yield Change(path, path, content=content, in_blocks=True)
                i = close
        elif named := _NAMED.fullmatch(line):
            path, named_at = named[1], i
        i += 1


def _block(lines: list[str], i: int, number: int) -> tuple[list[str], list[str], int]:
    """Its two halves, and the line of its end."""
    end = next((k for k in range(i, len(lines)) if _REPLACE.fullmatch(lines[k].strip())), None)
    if end is None:
        raise Unreadable(f"block {number}: no >>>>>>> REPLACE line ends it")
    middles = [k for k in range(i, end) if _MIDDLE.fullmatch(lines[k].strip())]
    if len(middles) != 1 or any(_SEARCH.fullmatch(text.strip()) for text in lines[i + 1 : end]):
        raise Unreadable(f"block {number}: it needs one ======= line and has {len(middles)}")
    return lines[i + 1 : middles[0]], lines[middles[0] + 1 : end], end


def _compared(old: list[str], new: list[str]) -> list[tuple[str, str]]:
    body: list[tuple[str, str]] = []
    for tag, i, j, k, m in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "equal":
            body += [(" ", line + "\n") for line in old[i:j]]
        else:
            body += [("-", line + "\n") for line in old[i:j]]
            body += [("+", line + "\n") for line in new[k:m]]
    return body
