"""A pseudorandom permutation of 0 ... n - 1, computed where it is needed instead of stored.

A block cipher permutes the numbers of its block size; a result of n or more is encrypted again,
until it is below n ("cycle walking"; Black and Rogaway, Ciphers with Arbitrary Finite Domains,
CT-RSA 2002). The cipher is Simon's Feistel network (Beaulieu et al., eprint.iacr.org/2013/404) cut
to four rounds, with round keys from C++'s `std::seed_seq` and the smallest even block size of at
least 16 bits that holds n - 1. It mixes well and is not secure.

Results are those of Grain's `index_shuffle` with four rounds, which version 0.1.0 called. The one
exception is n = 4**k + 1 with k >= 8: Grain's block then lacks one number, so that it takes one
image twice and another never.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

TABLE = 1 << 16
"""Numbers of the smallest block, 16 bits."""

Numbers = npt.NDArray[np.int64]


def permute(start: int, stop: int, n: int, seed: int) -> Numbers:
    """Return int64 [stop - start], the images of start ... stop - 1 under permutation `seed`.

    0 <= start < stop <= n; `seed` has 32 bits.
    """
    keys = _round_keys(seed)
    if n <= TABLE:
        return _permute_all(n, keys)[start:stop]
    half = ((n - 1).bit_length() + 1) // 2
    result = _encrypt(np.arange(start, stop, dtype=np.int64), half, keys)
    outside = np.flatnonzero(result >= n)
    while outside.size:
        result[outside] = _encrypt(result[outside], half, keys)
        outside = outside[result[outside] >= n]
    return result


def _permute_all(n: int, keys: list[int]) -> Numbers:
    """Walk from all numbers at once, doubling the stride: with a small `n`, walks take thousands of
    steps."""
    target = _encrypt(np.arange(TABLE, dtype=np.int64), 8, keys)
    while (target[:n] >= n).any():
        target = np.where(target < n, target, target[target])
    return target[:n]


def _encrypt(number: Numbers, half: int, keys: list[int]) -> Numbers:
    """Encrypt numbers of 2 * `half` bits. Rounds go in pairs, so the halves need not be swapped."""
    mask = (1 << half) - 1
    left, right = number >> half, number & mask
    for first, second in zip(keys[::2], keys[1::2], strict=True):
        left ^= _simon(right, half) ^ (first & mask)
        right ^= _simon(left, half) ^ (second & mask)
    return left << half | right


def _simon(x: Numbers, half: int) -> Numbers:
    """Simon's round function on words of `half` bits: rotl(x, 1) & rotl(x, 8) ^ rotl(x, 2)."""
    one, eight, two = (x << r | x >> (half - r) for r in (1, 8, 2))
    return (one & eight ^ two) & ((1 << half) - 1)


def _round_keys(seed: int) -> list[int]:
    """Return the four 32-bit words of `std::seed_seq{seed}` (ISO C++, [rand.util.seedseq])."""
    words = [0x8B8B8B8B] * 4

    def mix(value: int, factor: int) -> int:
        return (value ^ value >> 27) * factor % 2**32

    for k in range(4):
        here, ahead, behind = words[k], words[(k + 1) % 4], words[k - 1]
        a = mix(here ^ ahead ^ behind, 1664525)
        b = (a + (1, 1 + seed, 2, 3)[k]) % 2**32
        words[(k + 1) % 4] = (ahead + a) % 2**32
        words[(k + 2) % 4] = (words[(k + 2) % 4] + b) % 2**32
        words[k] = b
    for k in range(4):
        here, ahead, behind = words[k], words[(k + 1) % 4], words[k - 1]
        a = mix((here + ahead + behind) % 2**32, 1566083941)
        b = (a - k) % 2**32
        words[(k + 1) % 4] = ahead ^ a
        words[(k + 2) % 4] ^= b
        words[k] = b
    return words
