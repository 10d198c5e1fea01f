"""Which examples a page shows: the surest hits and the worst mistakes, one a finding."""
import numpy as np
from scipy.stats import rankdata

from medvlp_jax.tasks import common

FOUND, MISSED, ALARM = "Found with most certainty", "Missed: present, but ranked low", "False alarms: absent, but ranked high"


def extremes(labels, values, names, usable, count: int = 4) -> list[tuple[str, int, int]]:
    """-> [(group, row, class), ...]: of each group at most `count`, of different classes and examples, worst first.

    labels (N, C) of 1, 0, -1, values (N, C), usable (N,) bool: rows that may be shown. How far an example is out is its
    rank among those of the other class, which makes scores of several findings comparable.
    """
    groups = {FOUND: [], MISSED: [], ALARM: []}  # (how extreme, row, class)
    for c in range(len(names)):
        positive, negative = np.flatnonzero(labels[:, c] == 1), np.flatnonzero(labels[:, c] == 0)
        if not (len(positive) and len(negative)):
            continue
        both = np.concatenate([positive, negative])
        ranks = rankdata(values[both, c])
        above = (ranks[:len(positive)] - rankdata(values[positive, c])) / len(negative)  # negatives below each positive
        below = (ranks[len(positive):] - rankdata(values[negative, c])) / len(positive)  # positives below each negative
        for group, rows, score in ((FOUND, positive, above), (MISSED, positive, -above), (ALARM, negative, below)):
            score = np.where(usable[rows], score, -np.inf)
            best = np.lexsort((-values[rows, c] if group != MISSED else values[rows, c], -score))[0]
            if np.isfinite(score[best]):
                groups[group].append((float(score[best]), int(rows[best]), c))
    chosen, seen = [], set()
    for group, found in groups.items():
        picked = []
        for _, row, c in sorted(found, key=lambda item: -item[0]):
            if row not in seen and len(picked) < count:
                picked.append((group, row, c))
                seen.add(row)
        chosen += picked
    return chosen


def fetch(batches, wanted) -> dict[str, tuple[np.ndarray, dict]]:
    """{id: (image (H, W, C), host dict)} of the `wanted` examples that this process reads, by one more pass over the
    batches that ends with the last of them."""
    wanted, found = set(wanted), {}
    for batch in common.start(batches):
        valid = np.flatnonzero(np.asarray(batch["valid"]) > 0) if "valid" in batch else range(len(batch["image"]))
        hosts = batch["host"]
        for i, row in enumerate(valid):
            host = hosts[i] if len(hosts) == len(valid) else hosts[row]
            if (name := str(host.get("id", ""))) in wanted and name not in found:
                found[name] = np.array(batch["image"][row]), host
        if len(found) == len(wanted):
            break
    return found


def truth(host: dict, finding: str) -> dict:
    """Boxes and mask of a finding as a card has them."""
    mask = (host.get("masks") or {}).get(finding)
    return {"boxes": [list(map(float, b[1:])) for b in host.get("boxes") or () if b[0] == finding],
            "mask": None if mask is None else np.asarray(mask, bool)}
