"""Votes: what the tokens of a sequence say about the actions they tell of.

Axis letters: B rows, Q queries, L tokens, A actions, D width.
"""

from __future__ import annotations

from torch import Tensor, nn


class Votes(nn.Module):
    """Every token speaks for or against its own action, with a weight that the query and the token give it.

    Attention averages, so what a single step tells is diluted by all the others, and to copy an action's vector it
    must learn a map that keeps any vector. A sum of weights has neither trouble: a step can count as much among
    hundreds as alone, and what it counts for is known.
    """

    def __init__(self, width: int):
        super().__init__()
        self.ask = nn.Linear(width, width)
        nn.init.normal_(self.ask.weight, std=0.02)  # sums of hundreds begin small
        nn.init.zeros_(self.ask.bias)

    def forward(self, query: Tensor, tokens: Tensor, action: Tensor, seen: Tensor, count: int) -> Tensor:
        """The sums (B, Q, A) for `count` actions.

        Args:
            query: (B, Q, D) hidden vectors.
            tokens: (B, L, D) hidden vectors of all tokens.
            action: (B, L) the action each is about; -1 for none.
            seen: (B, Q, L) bool, whose votes each query hears.
        """
        weight = self.ask(query) @ tokens.transpose(1, 2) * query.shape[-1] ** -0.5  # (B, Q, L)
        weight = weight.float() * seen  # half of the precision would not do for sums of hundreds
        sums = weight.new_zeros(*query.shape[:2], count + 1)
        return sums.scatter_add(2, (action + 1)[:, None].expand_as(weight), weight)[..., 1:]
