"""Writes what a candidate predicts on: a split's rows, and, for a call of its own, their twins.

A twin begins like its row and goes on, from a secret place, like another text. A model that sees no
future says the same of both up to there. Rows and twins are in two folders, and the candidate is
called once with each: who saw both could see from where on they differ, and be honest just there.
"""

import os
from pathlib import Path

import numpy as np

LABELS = Path(os.environ.get("LABELS", "/labels"))
WORK = Path(os.environ.get("WORK", "/work"))
TWINS = int(os.environ.get("TWINS", "512"))
LOOKS = 4  # positions of a twin that are compared: the last before it differs, and others before


def main() -> None:
    draw = np.random.default_rng(int(os.environ["SECRET"]))
    rows = np.load(LABELS / "rows.npy")[:, :-1]
    count, context = rows.shape
    order = draw.permutation(count)
    of = draw.permutation(np.arange(TWINS) % count)
    cuts = draw.integers(1, context, TWINS)  # the first position that differs
    twins = rows[of].copy()
    for twin, cut, row in zip(twins, cuts, of, strict=True):
        others = draw.permutation(np.delete(np.arange(count), row))
        other = next(i for i in others if rows[i, cut] != twin[cut])
        twin[cut:] = rows[other, cut:]
    looks = draw.integers(0, cuts[:, None], (TWINS, LOOKS))
    looks[:, 0] = cuts - 1

    for name, part in (("1", rows[order]), ("2", twins)):
        (WORK / "inputs" / name).mkdir(parents=True)
        np.save(WORK / "inputs" / name / "rows.npy", part)
    (WORK / "key").mkdir()
    np.savez(WORK / "key" / "key.npz", order=order, of=of, looks=looks)


if __name__ == "__main__":
    main()
