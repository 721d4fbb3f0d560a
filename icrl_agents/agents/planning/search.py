"""Planning in an agent's imagination (DICP, Son et al. 2025, arXiv 2502.19009): one search, and its settings by name.

A search is a pure function over an `Imagination` and knows neither methods nor spaces. Axis letters: B rows,
W branches of a row (the beam), A alternative next actions of a branch, M = W * A.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from icrl_agents.core.checks import check_choice, check_known, check_value


class Proposal(NamedTuple):
    """The policy's proposals in every branch."""

    action: Tensor  # (B, W, A, ...)
    log_prob: Tensor  # (B, W, A)


class Outcome(NamedTuple):
    """The predicted outcome of each proposal."""

    expected: Tensor  # (B, W, A) the mean of the reward
    reward: Tensor  # (B, W, A) the modal reward, with which the branch continues
    next_obs: Tensor  # (B, W, A, ...)


class Imagination(Protocol):
    """A model in which B rows of W branches continue from a context; it never changes what it started from."""

    def propose(self, ctx: Any, count: int) -> Proposal:
        """Up to `count` actions for every branch of `ctx`, the most probable or sampled ones."""

    def imagine(self, ctx: Any, action: Tensor) -> tuple[Outcome, Any]:
        """What `action` (B, W, A, ...) leads to, and what `follow` needs to go on from there."""

    def follow(self, imagined: Any, parent: Tensor, choice: Tensor) -> Any:
        """The branches (B, V) that took action `choice` (B, V) in the branch `parent` (B, V)."""

    def value(self, ctx: Any) -> Tensor:
        """The return (B, W) still to come in this episode."""


MAX_CHILDREN = 4096  # of a row at one depth; merging compares all pairs of them


class Path(NamedTuple):
    """Steps of branches (B, W, T, ...), or of the best one of every row (B, T, ...)."""

    action: Tensor
    reward: Tensor
    next_obs: Tensor

    def grown(self, parent: Tensor, step: Path) -> Path:
        """The paths (B, V, T + 1, ...) of branches that go on from `parent` (B, V) with a `step` (B, V, ...)."""
        rows = torch.arange(len(parent), device=parent.device)[:, None]
        return Path(*(torch.cat([x[rows, parent], y[:, :, None]], 2) for x, y in zip(self, step, strict=True)))


class SearchResult(NamedTuple):
    """The result of a search for every row."""

    path: Path  # (B, T, ...) the best branch; rows with shorter plans repeat its last step
    length: Tensor  # (B,) steps of it that are real
    known: Tensor  # (B,) bool: the modal rewards of its branches differ

    @property
    def action(self) -> Tensor:
        """(B, ...) the first one."""
        return self.path.action[:, 0]


@dataclass(frozen=True)
class Planner:
    """Settings of the search: which actions it tries, how it ranks branches, and when it overrides the policy.

    Where it abstains, a row acts as its policy does. Of the planners with a name, `lookahead` is the one to use:
    `beam` is the published search (Son et al. 2025), abstains until the window is full, and cost the released agents
    return in two of three cases measured: 0.4 an episode in Darkroom (ad), 2.6 in the permuted room (idt; dpt nothing).
    """

    depth: int = 8  # imagined steps
    width: int = 10  # branches kept after each
    branches: int = 5  # actions tried in each branch
    when: str = "known"  # it overrides "always", when the window is "full", or when a modal reward is "known"
    prior: float = 0.5  # return that a nat of the policy's log-probability is worth to a branch
    expected: bool = True  # rank by expected rewards, not by modal ones
    merge: bool = True  # of branches with the same imagined obs keep the best
    value: bool = True  # add the return still to come after the last step
    follow: int = 1  # steps of a plan before the next search, as long as outcomes are as imagined
    trust: float = 0.0  # overrides where this share of the latest steps, about 20, came out as predicted

    WHEN: ClassVar = ("known", "full", "always")
    LIMITS: ClassVar[dict[str, tuple[float, float]]] = {
        "depth": (1, 1000),
        "width": (1, 10_000),
        "branches": (1, 10_000),
        "prior": (0.0, 1e6),
        "follow": (1, 1000),
        "trust": (0.0, 0.95),  # twenty of twenty-one is the maximum
    }

    @property
    def caution(self) -> str:
        """A warning for users who choose it; empty for none."""
        if self.when != "full":
            return ""
        return (
            "plan='beam' is the published search and cost the released agents return in two of three cases measured "
            "(docs/planning.md): plan='lookahead' did no harm"
        )

    def __post_init__(self) -> None:
        for field in fields(self):
            check_value(field.name, str(field.type), getattr(self, field.name), self.LIMITS.get(field.name))
        check_choice("when", self.when, self.WHEN)
        if self.width * self.branches > MAX_CHILDREN:
            raise ValueError(f"width={self.width} times branches={self.branches} is over {MAX_CHILDREN}: lower one")

    def search(
        self, imagination: Imagination, ctx: Any, left: Tensor, ends: Tensor, generator: Any = None
    ) -> SearchResult:
        """Look for the best first action of every row.

        Args:
            ctx: one branch a row.
            left: (B,) steps that may be imagined; every row goes one step deep at least.
            ends: (B,) bool, after those the episode is over and nothing is still to come.
            generator: of the order in which equally good first actions are tried: as the policy would draw them.
        """
        depths = left.clamp(1, self.depth)
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
            step = Path(proposal.action[where], outcome.reward[where], outcome.next_obs[where])
            path = path.grown(parent, step) if path else Path(*(x[:, :, None] for x in step))
            rank = beam.rank(self.prior)  # (B, V)
            ending = depths == depth
            beyond = ending & ~(ends & (left <= depth)) & self.value
            if depth < most or beyond.any():
                ctx = imagination.follow(imagined, parent, branch)
            if beyond.any():
                rank = rank + torch.where(beyond[:, None], imagination.value(ctx), 0.0)
            picked = Path(*(x[rows, rank.argmax(1)] for x in path))  # (B, depth, ...)
            best = picked if best is None else _kept(best, picked, depths < depth)
        assert best is not None
        return SearchResult(best, depths, known)


class Beam(NamedTuple):
    """Branches (B, W), or their children (B, M), with what they have earned."""

    total: Tensor  # by which they are ranked; -inf for those that are none
    likely: Tensor  # of the modal rewards
    log_prob: Tensor  # of their actions

    @classmethod
    def root(cls, log_prob: Tensor) -> Beam:
        """The one branch of every row before its first action, of which (B, 1, A) are proposed."""
        nothing = torch.zeros_like(log_prob[:, :, 0])
        return cls(nothing, nothing, nothing)

    def children(self, proposal: Proposal, outcome: Outcome, expected: bool) -> Beam:
        """The branches after one more step each, (B, M)."""
        reward = outcome.expected if expected else outcome.reward
        grown = zip(self, (reward, outcome.reward, proposal.log_prob), strict=True)
        return Beam(*((before[..., None] + now).flatten(1) for before, now in grown))

    def rank(self, prior: float) -> Tensor:
        return self.total + prior * self.log_prob if prior else self.total

    def differ(self) -> Tensor:
        """(B,) bool: whether the modal rewards of a row's branches differ."""
        none = self.total.isinf()
        most, least = self.likely.masked_fill(none, -torch.inf), self.likely.masked_fill(none, torch.inf)
        return most.amax(1) - least.amin(1) > 1e-6

    def best(self, planner: Planner, next_obs: Tensor) -> tuple[Beam, Tensor, Tensor]:
        """The `width` best children (B, V), their parents and their parents' alternatives; ties in their order.

        `next_obs` (B, W, A, ...) is what merging goes by.
        """
        order = self.rank(planner.prior).argsort(dim=1, descending=True, stable=True)
        sorted_beam = Beam(*(x.gather(1, order) for x in self))
        if planner.merge:
            obs = next_obs.reshape(*self.total.shape, -1)  # (B, M, F)
            obs = obs.gather(1, order[..., None].expand_as(obs))
            same = (obs[:, :, None] == obs[:, None]).all(-1)  # (B, M, M)
            again = same.tril(-1).any(-1)
            total = sorted_beam.total.masked_fill(again, -torch.inf)
            order_again = total.isinf().argsort(dim=1, stable=True)  # those that stay come first, in their order
            sorted_beam = Beam(*(x.gather(1, order_again) for x in sorted_beam._replace(total=total)))
            order = order.gather(1, order_again)
        count = min(planner.width, int(sorted_beam.total.isfinite().sum(1).max()))
        kept = Beam(*(x[:, :count] for x in sorted_beam))
        alternatives = next_obs.shape[2]
        return kept, order[:, :count] // alternatives, order[:, :count] % alternatives


def _kept(before: Path, now: Path, over: Tensor) -> Path:
    """`now` (B, T + 1, ...), but `before` (B, T, ...) in the rows whose plan is `over` (B,) already."""
    padded = (torch.cat([x, x[:, -1:]], 1) for x in before)
    return Path(*(torch.where(over.view(-1, *[1] * (y.dim() - 1)), x, y) for x, y in zip(padded, now, strict=True)))


def _drawn(proposal: Proposal, generator: Any) -> Proposal:
    """The first proposal (B, 1, A) in the order in which the policy would draw its actions without replacement."""
    noise = torch.empty_like(proposal.log_prob).exponential_(generator=generator).log()
    order = (proposal.log_prob - noise).argsort(-1, descending=True)  # Gumbel noise
    action = proposal.action
    index = order.reshape(*order.shape, *[1] * (action.dim() - 3)).expand_as(action)
    return Proposal(action.gather(2, index), proposal.log_prob.gather(2, order))


PLANNERS: dict[str, Planner] = {
    "lookahead": Planner(width=5, branches=3, follow=4, trust=0.9),
    "beam": Planner(when="full", prior=0.0, expected=False, merge=False, value=False),
    "best-of-n": Planner(depth=1, width=1, branches=10, when="always", prior=0.0, merge=False, value=False),
}


def make_planner(plan: str | Planner, settings: Mapping[str, Any] | None = None) -> Planner:
    """A planner, or the one of that name, but for the given settings.

    Raises:
        ValueError: an unknown name or setting, or a bad value.
    """
    if not isinstance(plan, Planner):
        check_known([plan], PLANNERS, "plan")
        plan = PLANNERS[plan]
    settings = settings or {}
    check_known(settings, (field.name for field in fields(Planner)), "planner setting")
    return replace(plan, **settings)
