"""Beam search over imagined steps (DICP, Son et al. 2025, arXiv 2502.19009), and the planners by name.

The search is a pure function over an `Imagination`, independent of methods and spaces. Axis letters: B rows,
W branches of a row (the beam), A alternative next actions of a branch, M = W * A children, V kept branches, T steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from icrl_agents.core.checks import check_choice, check_fields, check_known


class Proposal(NamedTuple):
    """Actions proposed by the policy in every branch."""

    action: Tensor  # (B, W, A, ...)
    log_prob: Tensor  # (B, W, A)


class Outcome(NamedTuple):
    """Predicted outcome of each proposed action."""

    expected: Tensor  # (B, W, A) expected reward
    reward: Tensor  # (B, W, A) modal reward, with which the branch continues
    next_obs: Tensor  # (B, W, A, ...)


class Imagination(Protocol):
    """Dynamics model of a search: continues W branches in each of B rows, without changing their start."""

    def propose(self, ctx: Any, count: int) -> Proposal:
        """Up to `count` actions for every branch of `ctx`, the most probable or sampled ones."""

    def imagine(self, ctx: Any, action: Tensor) -> tuple[Outcome, Any]:
        """Predicted outcomes of `action` (B, W, A, ...), and the state that `follow` continues from."""

    def follow(self, imagined: Any, parent: Tensor, choice: Tensor) -> Any:
        """Branches (B, V) that took action number `choice` (B, V) of branch `parent` (B, V)."""

    def value(self, ctx: Any) -> Tensor:
        """Predicted return to go (B, W) in the current episode."""


MAX_CHILDREN = 4096  # children of a row at one depth; merging compares all pairs


class Path(NamedTuple):
    """Steps of all branches (B, W, T, ...), or of the best branch of every row (B, T, ...)."""

    action: Tensor
    reward: Tensor
    next_obs: Tensor

    def grown(self, parent: Tensor, step: Path) -> Path:
        """Paths (B, V, T + 1, ...) that continue the branches `parent` (B, V) by a `step` (B, V, ...)."""
        rows = torch.arange(len(parent), device=parent.device)[:, None]
        return Path(*(torch.cat([x[rows, parent], y[:, :, None]], 2) for x, y in zip(self, step, strict=True)))


class SearchResult(NamedTuple):
    """Result of a search for every row."""

    path: Path  # (B, T, ...) the best branch; shorter plans repeat their last step
    length: Tensor  # (B,) number of steps in the plan
    known: Tensor  # (B,) bool: the modal returns of the branches differ, so the search has a preference

    @property
    def action(self) -> Tensor:
        """First planned actions (B, ...)."""
        return self.path.action[:, 0]


@dataclass(frozen=True)
class Planner:
    """Settings of the search: tried actions, ranking of branches, and when the planner overrides the policy.

    Where the planner abstains, the policy acts. Of the named planners, `lookahead` is recommended. `beam` is the
    published search (Son et al. 2025): it ranks branches by the most probable rewards and abstains until the window is
    full. It made no released agent better where it was measured (docs/planning.md).
    """

    depth: int = 8  # maximum number of imagined steps
    width: int = 10  # number of branches kept after each step
    branches: int = 5  # number of actions tried in each branch
    when: str = "known"  # override the policy "always", when the window is "full", or when a modal reward is "known"
    prior: float = 0.5  # weight of the policy's log-probability in the rank of a branch, in return per nat
    expected: bool = True  # rank branches by expected rewards instead of modal rewards
    merge: bool = True  # keep only the best branch among those with the same imagined obs
    value: bool = True  # add the predicted return to go after the last step
    follow: int = 1  # number of planned steps before the next search, as long as outcomes are as predicted
    after: int = 0  # number of steps at the start of each episode that the policy takes alone
    trust: float = 0.0  # minimum share of correct predictions among the latest steps (about 20) to override the policy

    WHEN: ClassVar = ("known", "full", "always")
    LIMITS: ClassVar[dict[str, tuple[float, float]]] = {
        "depth": (1, 1000),
        "width": (1, 10_000),
        "branches": (1, 10_000),
        "prior": (0.0, 1e6),
        "follow": (1, 1000),
        "after": (0, 1_000_000),
        "trust": (0.0, 0.95),  # the decayed counts cannot exceed 20 correct of 21
    }

    @property
    def caution(self) -> str:
        """Warning shown when a user selects the planner; empty: none."""
        if self.when != "full":
            return ""
        return (
            "plan='beam' is the published search: it abstains until the window is full, and no released agent got "
            "better with it (docs/planning.md); plan='lookahead' begins with the first reward"
        )

    def __post_init__(self) -> None:
        check_fields(self, self.LIMITS)
        check_choice("when", self.when, self.WHEN)
        if self.width * self.branches > MAX_CHILDREN:
            raise ValueError(f"width={self.width} times branches={self.branches} is over {MAX_CHILDREN}: lower one")

    def search(
        self, imagination: Imagination, ctx: Any, left: Tensor, ends: Tensor, generator: Any = None
    ) -> SearchResult:
        """Search for the best plan of every row.

        Args:
            imagination: dynamics model.
            ctx: start of the search, one branch per row.
            left: maximum number of imagined steps (B,); every row imagines at least one.
            ends: (B,) bool: the episode ends after `left` steps, so no bootstrap value is added there.
            generator: generator that breaks ties between first actions, in the order in which the policy would draw
                them.
        """
        depths = left.clamp(1, self.depth)  # (B,)
        most, rows = int(depths.max()), torch.arange(len(left), device=left.device)
        known, path, best = torch.zeros_like(ends), None, None
        beam = None
        for depth in range(1, most + 1):
            proposal = imagination.propose(ctx, self.branches)
            if beam is None:
                proposal = _drawn(proposal, generator)
                beam = Beam.root(proposal.log_prob)
            outcome, imagined = imagination.imagine(ctx, proposal.action)
            children = beam.children(proposal, outcome, self.expected)
            known |= children.differ() & (depth <= depths)
            beam, parent, branch = children.best(self, outcome.next_obs)
            where = rows[:, None], parent, branch
            step = Path(proposal.action[where], outcome.reward[where], outcome.next_obs[where])  # (B, V, ...)
            path = path.grown(parent, step) if path else Path(*(x[:, :, None] for x in step))
            rank = beam.rank(self.prior)  # (B, V)
            ending = depths == depth  # (B,) rows whose plan has its last step here
            beyond = ending & ~(ends & (left <= depth)) & self.value  # (B,) rows with a bootstrap value
            if depth < most or beyond.any():
                ctx = imagination.follow(imagined, parent, branch)
            if beyond.any():
                rank = rank + torch.where(beyond[:, None], imagination.value(ctx), 0.0)
            picked = Path(*(x[rows, rank.argmax(1)] for x in path))  # (B, depth, ...)
            best = picked if best is None else _kept(best, picked, depths < depth)
        assert best is not None
        return SearchResult(best, depths, known)


class Beam(NamedTuple):
    """Branches (B, W), or their children (B, M), with sums over their imagined steps."""

    total: Tensor  # sum of rewards for the ranking; -inf: no branch
    likely: Tensor  # sum of modal rewards
    log_prob: Tensor  # sum of action log-probabilities

    @classmethod
    def root(cls, log_prob: Tensor) -> Beam:
        """Single branch of every row before its first action, for the first proposal (B, 1, A)."""
        nothing = torch.zeros_like(log_prob[:, :, 0])
        return cls(nothing, nothing, nothing)

    def children(self, proposal: Proposal, outcome: Outcome, expected: bool) -> Beam:
        """Children (B, M): every branch after each of its proposed actions."""
        reward = outcome.expected if expected else outcome.reward
        grown = zip(self, (reward, outcome.reward, proposal.log_prob), strict=True)
        return Beam(*((before[..., None] + now).flatten(1) for before, now in grown))

    def rank(self, prior: float) -> Tensor:
        return self.total + prior * self.log_prob if prior else self.total

    def differ(self) -> Tensor:
        """(B,) bool: whether the sums of modal rewards differ between the branches of a row."""
        none = self.total.isinf()
        most, least = self.likely.masked_fill(none, -torch.inf), self.likely.masked_fill(none, torch.inf)
        return most.amax(1) - least.amin(1) > 1e-6

    def best(self, planner: Planner, next_obs: Tensor) -> tuple[Beam, Tensor, Tensor]:
        """Best `width` children, in a stable order, after merging children with equal `next_obs` (B, W, A, ...).

        Returns:
            Kept children (B, V).
            Parent branch (B, V) of each.
            Action number (B, V) of each in its parent branch.
        """
        order = self.rank(planner.prior).argsort(dim=1, descending=True, stable=True)  # (B, M)
        sorted_beam = Beam(*(x.gather(1, order) for x in self))
        if planner.merge:
            obs = next_obs.reshape(*self.total.shape, -1)  # (B, M, F)
            obs = obs.gather(1, order[..., None].expand_as(obs))
            same = (obs[:, :, None] == obs[:, None]).all(-1)  # (B, M, M)
            again = same.tril(-1).any(-1)  # (B, M) a better child has the same obs
            total = sorted_beam.total.masked_fill(again, -torch.inf)
            order_again = total.isinf().argsort(dim=1, stable=True)  # merged children move to the end
            sorted_beam = Beam(*(x.gather(1, order_again) for x in sorted_beam._replace(total=total)))
            order = order.gather(1, order_again)
        count = min(planner.width, int(sorted_beam.total.isfinite().sum(1).max()))
        kept = Beam(*(x[:, :count] for x in sorted_beam))
        alternatives = next_obs.shape[2]
        return kept, order[:, :count] // alternatives, order[:, :count] % alternatives


def _kept(before: Path, now: Path, over: Tensor) -> Path:
    """`now` (B, T + 1, ...), but the padded `before` (B, T, ...) in the rows `over` (B,) bool with a complete plan."""
    padded = (torch.cat([x, x[:, -1:]], 1) for x in before)
    return Path(*(torch.where(over.view(-1, *[1] * (y.dim() - 1)), x, y) for x, y in zip(padded, now, strict=True)))


def _drawn(proposal: Proposal, generator: Any) -> Proposal:
    """First proposal (B, 1, A) in a random order: that of sampling from the policy without replacement."""
    noise = torch.empty_like(proposal.log_prob).exponential_(generator=generator).log()
    order = (proposal.log_prob - noise).argsort(-1, descending=True)  # -log of an exponential is Gumbel noise
    action = proposal.action
    index = order.reshape(*order.shape, *[1] * (action.dim() - 3)).expand_as(action)
    return Proposal(action.gather(2, index), proposal.log_prob.gather(2, order))


PLANNERS: dict[str, Planner] = {
    "lookahead": Planner(width=5, branches=3, follow=4, trust=0.9),
    "beam": Planner(when="full", prior=0.0, expected=False, merge=False, value=False),
    "best-of-n": Planner(depth=1, width=1, branches=10, when="always", prior=0.0, merge=False, value=False),
}


def make_planner(plan: str | Planner, settings: Mapping[str, Any] | None = None) -> Planner:
    """Planner by name, or `plan` itself, with `settings` replaced.

    Raises:
        ValueError: an unknown name or setting, or an invalid value.
    """
    if not isinstance(plan, Planner):
        check_known([plan], PLANNERS, "plan")
        plan = PLANNERS[plan]
    settings = settings or {}
    check_known(settings, (field.name for field in fields(Planner)), "planner setting")
    return replace(plan, **settings)
