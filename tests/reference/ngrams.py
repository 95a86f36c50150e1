"""Interpolated Kneser-Ney by dictionaries and recursion, as the paper's formulas are written.

Chen & Goodman, "An empirical study of smoothing techniques for language modeling" (1999), section
3. Nothing here sorts, packs or vectorises, and nothing is shared with the code.
"""

from __future__ import annotations

from collections import Counter, defaultdict

Gram = tuple[int, ...]


class KneserNey:
    """p(v | h) of every order, from lists of rows.

    Args:
        rows: Rows of token ids.
        vocabulary: V.
    """

    def __init__(self, rows: list[list[int]], vocabulary: int) -> None:
        self.vocabulary = vocabulary
        self.counts: Counter[Gram] = Counter()
        before: defaultdict[Gram, set[int | None]] = defaultdict(set)
        for row in rows:
            for i in range(len(row)):
                for j in range(i, len(row)):
                    gram = tuple(row[i : j + 1])
                    self.counts[gram] += 1
                    before[gram].add(row[i - 1] if i else None)
        self.preceding = {gram: len(tokens) for gram, tokens in before.items()}

    def probability(self, context: Gram, token: int) -> float:
        """p(token | context)."""
        return self._interpolated(dict(self.counts), context, token)

    def _interpolated(self, counted: dict[Gram, int], context: Gram, token: int) -> float:
        lower = 1 / self.vocabulary
        if context:
            lower = self._interpolated(self.preceding, context[1:], token)
        following = {gram[-1]: c for gram, c in counted.items() if gram[:-1] == context}
        if not following:
            return lower
        D = self._discounts(counted, len(context) + 1)
        total = sum(following.values())
        own = following.get(token, 0)
        taken = D[min(own, 3)] if own else 0.0
        gamma = sum(D[min(c, 3)] for c in following.values()) / total
        return (own - taken) / total + gamma * lower

    def _discounts(self, counted: dict[Gram, int], length: int) -> dict[int, float]:
        n = Counter(c for gram, c in counted.items() if len(gram) == length)
        if all(n[i] for i in (1, 2, 3, 4)):
            Y = n[1] / (n[1] + 2 * n[2])
            found = {i: i - (i + 1) * Y * n[i + 1] / n[i] for i in (1, 2, 3)}
            if min(found.values()) > 0:
                return found
        return {1: 0.5, 2: 1.0, 3: 1.5}
