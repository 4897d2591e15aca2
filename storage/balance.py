"""Draw the classes of an epoch with other shares than their own: a pure function, as the order is.

An epoch keeps its number of samples, N. Each class gets a share of the N draws that is fixed for
all epochs, and spends it on a cycle through its samples, which goes on where the last epoch
stopped. So a small class repeats within an epoch (with replacement, but evenly: two of its samples
differ by one draw at most), and a large class is seen whole over several epochs (without).

Only the table of samples by class is in memory: 8 bytes per sample, once per machine where the
split is large (`selection_cache.py`).
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np

from storage.errors import BadOrder
from storage.selection import draw_within_class

Balance = Literal["none", "sqrt", "uniform"]
_SCALE = 1 << 40  # square roots are whole numbers of 2**-20: every machine gets the same shares


def class_shares(counts: np.ndarray, balance: Balance) -> np.ndarray:
    """Draws of each class per epoch, in all as many as samples: counts int64 [C] -> int64 [C].

    A class without samples gets none, any other at least one.
    """
    if balance == "none":
        return counts.astype(np.int64)
    if balance == "sqrt":
        return _spread([math.isqrt(int(count) * _SCALE) for count in counts], counts)
    return _spread([int(count > 0) for count in counts], counts)


def member_shares(counts: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Draws of each dataset of a mixture per epoch, by shares: counts int64 [M] -> int64 [M].

    Shares are relative to each other: 3 1 is the same as 0.75 0.25. One of 0 leaves a dataset out.
    Raises BadOrder where they do not say how to draw this mixture.
    """
    exact = [Fraction(repr(float(share))) for share in shares]  # as they were written
    whole = math.lcm(*(share.denominator for share in exact))
    some = zip(exact, counts.tolist(), strict=True)
    weights = [int(share * whole) if count else 0 for share, count in some]
    if not sum(weights):
        said = " ".join(f"{share:g}" for share in shares)
        raise BadOrder(f"data.shares {said}: no dataset with a share has samples in the selection")
    return _spread(weights, counts)


def _spread(weights: Sequence[int], counts: np.ndarray) -> np.ndarray:
    """Deal as many draws as there are samples out by weight: [C] -> int64 [C].

    Each class has its quota rounded down, and those with the largest remainders one more; of equal
    remainders the first.
    """
    samples, total = int(counts.sum()), sum(weights)
    shares, remainders = zip(*(divmod(samples * weight, total) for weight in weights), strict=True)
    share = np.array(shares, dtype=np.int64)
    largest_first = sorted(range(len(weights)), key=lambda c: (-remainders[c], c))
    share[largest_first[: samples - int(share.sum())]] += 1
    return share


def samples_by_class(labels: np.ndarray, *, digest: str, seed: int, classes: int = 0) -> np.ndarray:
    """Group the samples of each class, in the order of the class's cycle.

    Args:
        labels: label of each sample, int [N], from 0.
        digest: digest of the dataset.
        seed: seed of the order.
        classes: least number of classes, C; the last ones may have no samples.

    Returns:
        int64 [C + 1 + N]: where each class begins and the last one ends, then the samples. `sqrt`
        and `uniform` share this table.
    """
    key = hashlib.sha256(f"{digest}/{seed}/classes".encode()).digest()
    labels = labels.astype(np.int64)
    rows, _ = draw_within_class(
        np.arange(len(labels)), labels, int.from_bytes(key[:7], "little")
    )  # 7 bytes: a seed there is an int64
    return np.concatenate([[0], np.cumsum(np.bincount(labels, minlength=classes)), rows])


@dataclass(frozen=True, eq=False)
class Balanced:
    """What is drawn in an epoch: [C] classes, each with a cycle through its samples.

    Of a mixture its datasets take the place of the classes, where they have shares.
    """

    counts: np.ndarray
    """Samples of each class: int64 [C]."""
    first_row: np.ndarray
    """First row of each class in `rows`: int64 [C]."""
    rows: np.ndarray
    """The samples by class, within a class in the order of its cycle: int64 [N]."""
    shares: np.ndarray
    """Draws of each class per epoch: int64 [C]."""

    @classmethod
    def of(
        cls, table: np.ndarray, balance: Balance | Sequence[float], *, samples: int
    ) -> "Balanced":
        """Combine the table from `samples_by_class` with the shares of its classes, or members."""
        starts, rows = table[:-samples], table[-samples:]
        counts = np.diff(starts)
        by_name = isinstance(balance, str)
        shares = class_shares(counts, balance) if by_name else member_shares(counts, balance)
        return cls(counts, starts[:-1], rows, shares)

    def draws(self, epoch: int, number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Some of an epoch's N draws, which are counted class after class.

        Args:
            epoch: from 0.
            number: numbers of draws, int64 [n] in [0, N).

        Returns:
            position int64 [n] in [0, N): the sample; visit int64 [n]: which time it is drawn since
            the beginning, from 0.
        """
        ends = np.cumsum(self.shares)  # [C]
        label = np.searchsorted(ends, number, side="right")  # [n], never a class without a share
        drawn_before = epoch * self.shares[label] + number - (ends - self.shares)[label]
        visit, place = np.divmod(drawn_before, self.counts[label])
        return np.asarray(self.rows[self.first_row[label] + place], dtype=np.int64), visit

    def times(self, epoch: int) -> np.ndarray:
        """How often each sample is drawn in an epoch: int64 [N]. Follows from counts alone."""
        label = np.repeat(np.arange(len(self.counts)), self.counts)  # [N], by row
        count, share = self.counts[label], self.shares[label]
        place = np.arange(len(label)) - self.first_row[label]
        after_last_epoch = (place - epoch * share) % count
        found = np.empty(len(label), dtype=np.int64)
        found[self.rows] = share // count + (after_last_epoch < share % count)
        return found
