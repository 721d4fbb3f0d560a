"""Votes: additive evidence of tokens for or against their own actions, an extension of Headless-AD.

Axis letters: B rows, Q queries, L tokens, A actions, D width.
"""

from __future__ import annotations

from torch import Tensor, nn


class Votes(nn.Module):
    """Every token adds a weight, the dot product of query and token, to the score of its own action.

    Attention averages, which dilutes the evidence of a single step among hundreds of others, and copying an action
    vector through it requires a learned map that preserves arbitrary vectors. A sum of weights avoids both: a step
    keeps its influence in long contexts, and its action is known.
    """

    def __init__(self, width: int):
        super().__init__()
        self.ask = nn.Linear(width, width)
        nn.init.normal_(self.ask.weight, std=0.02)  # keeps initial sums over hundreds of tokens small
        nn.init.zeros_(self.ask.bias)

    def forward(self, query: Tensor, tokens: Tensor, action: Tensor, seen: Tensor, count: int) -> Tensor:
        """Sums of votes (B, Q, A).

        Args:
            query: hidden vectors (B, Q, D) at which actions are chosen.
            tokens: hidden vectors (B, L, D) of all tokens.
            action: action (B, L) of each token; -1 for none.
            seen: (B, Q, L) bool, the tokens that count for each query.
            count: A.
        """
        weight = self.ask(query) @ tokens.transpose(1, 2) * query.shape[-1] ** -0.5  # (B, Q, L)
        weight = weight.float() * seen  # half precision is too coarse for sums over hundreds of tokens
        sums = weight.new_zeros(*query.shape[:2], count + 1)  # (B, Q, 1 + A): column 0 collects action -1
        return sums.scatter_add(2, (action + 1)[:, None].expand_as(weight), weight)[..., 1:]
