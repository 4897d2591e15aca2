"""A keyed bijection of [0, size) in O(1) memory: each element is computed without the others.

A shuffled list of 300 million positions would be 2.4 GB in every process that plans; this is a few
integers. It is a Feistel network on a * b >= size cells with cycle walking (Black and Rogaway,
"Ciphers with arbitrary finite domains", 2002). numpy's own Generator.permutation would also tie the
order of a run to numpy's version, because its streams may change between releases (NEP 19).
"""

import hashlib
import math

import numpy as np

# With 8, the 120 permutations of 5 elements are not equally likely (chi2 5.1 per degree).
_ROUNDS = 16
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix64(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: uint64 [...] -> uint64 [...], every bit depends on every bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Permutation:
    """A permutation of [0, size) chosen by `key`."""

    def __init__(self, size: int, key: str) -> None:
        assert size >= 1, size
        self.size = size
        self._rows = math.isqrt(size - 1) + 1  # ceil(sqrt(size))
        self._columns = -(-size // self._rows)
        digest = hashlib.shake_128(key.encode()).digest(8 * _ROUNDS)
        self._keys = np.frombuffer(digest, dtype="<u8").astype(np.uint64)

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Map each element: int64 [n] in [0, size) -> int64 [n] in [0, size)."""
        return self._walk(x, range(_ROUNDS), sign=1)

    def inverse(self, y: np.ndarray) -> np.ndarray:
        """Map each element back: int64 [n] -> int64 [n]; inverse(forward(x)) == x."""
        return self._walk(y, range(_ROUNDS - 1, -1, -1), sign=-1)

    def _walk(self, x: np.ndarray, rounds: range, *, sign: int) -> np.ndarray:
        """Repeat the network on cells mapped outside [0, size): about sqrt(size) at most."""
        x = np.asarray(x, dtype=np.int64)
        assert x.size == 0 or (x.min() >= 0 and x.max() < self.size), (x.min(), x.max(), self.size)
        y = self._network(x, rounds, sign)
        outside = np.flatnonzero(y >= self.size)
        while outside.size:
            y[outside] = self._network(y[outside], rounds, sign)
            outside = outside[y[outside] >= self.size]
        return y

    def _network(self, x: np.ndarray, rounds: range, sign: int) -> np.ndarray:
        row, column = np.divmod(x, self._columns)
        for r in rounds:
            if r % 2 == 0:
                row = (row + sign * self._round(column, r, self._rows)) % self._rows
            else:
                column = (column + sign * self._round(row, r, self._columns)) % self._columns
        return row * self._columns + column

    def _round(self, x: np.ndarray, r: int, modulus: int) -> np.ndarray:
        mixed = mix64(x.astype(np.uint64) * _GOLDEN + self._keys[r])
        return (mixed % np.uint64(modulus)).astype(np.int64)
