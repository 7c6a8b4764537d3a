"""Text of strangers inside a prompt: it can neither end its block nor speak in another's name.

What a candidate prints and what a model has written of an idea comes back into prompts, and may
hold "ignore the above". A block's first and last line carry a mark that is made of the text and is
not in it. Spellings that chat templates give a meaning get a dot after their bracket, which
`restored` takes off again: a patch quotes the code as it was shown.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

# What servers take for the turns of a conversation wherever it stands: <|im_start|>, </think>, ...
_ROLES = r"(\||/?s>|/?think>|/?tool_call>|(?:start|end)_of_turn>|/?INST\])"
_GUARD, _RESTORE = re.compile(rf"([<\[])(\.*){_ROLES}"), re.compile(rf"([<\[])\.(\.*){_ROLES}")
# Unseen by a person: control characters, marks of direction, zero width, Unicode's "tags".
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def block(name: str, text: str) -> str:
    """The text as it is, but for `guarded`, between two lines that nothing in it can be."""
    text = guarded(text)
    mark, turn = "", 0
    while not mark or mark in text:
        digest = hashlib.blake2b(f"{turn} {text}".encode("utf-8", "replace"), digest_size=6)
        mark, turn = digest.hexdigest(), turn + 1
    end = "" if text.endswith("\n") or not text else "\n"
    return f"<<<BEGIN {mark} {name}>>>\n{text}{end}<<<END {mark}>>>"


def row(values: Mapping[str, Any]) -> str:
    """A line of JSON: no string in it can begin a line, or leave its quotes."""
    return guarded(json.dumps(values, ensure_ascii=False))


def plain(text: str, most: int) -> str:
    """What can be seen of it, its beginning and its end where it is longer than `most`."""
    text = _COLOURS.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    # Before the long work: a log may be large, and only its ends are wanted.
    text = shortened(text, 4 * most)
    text = _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    return shortened(text, most)


def shortened(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    note = f"\n[... {len(text) - most} characters left out ...]\n"
    head = max(0, most - len(note)) // 3
    tail = max(0, most - len(note) - head)
    return (text[:head] + note + text[len(text) - tail :])[:most]


def line(text: str, most: int) -> str:
    return " ".join(plain(" ".join(text.split()), most).split())


def guarded(text: str) -> str:
    return _GUARD.sub(r"\1.\2\3", text)


def restored(text: str) -> str:
    """What a model copied of a guarded text, as it was."""
    return _RESTORE.sub(r"\1\2\3", text)
