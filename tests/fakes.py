"""Small spaces, lifetimes and agents for the contract tests: random weights, no training."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from gymnasium import Space, spaces

from icrl_agents.agents.agent import ICAgent
from icrl_agents.core.reward_range import with_reward_range, with_timesteps
from icrl_agents.core.steps import Steps, stack_steps
from icrl_agents.methods import METHODS
from icrl_agents.methods.base.predictor import CODE, LATENT

GRID = spaces.Box(0, 8, (2,), np.int32)
SPACES = {
    "grid": (GRID, spaces.Discrete(5)),
    "vector": (spaces.Box(-2.0, 2.0, (3,), np.float32), spaces.Box(-1.0, 1.0, (2,), np.float32)),
    "discrete": (spaces.Discrete(4), spaces.Discrete(3, start=1)),
    "multi": (spaces.MultiDiscrete([3, 4]), spaces.MultiDiscrete([2, 3])),
    "matrix": (spaces.Box(-1, 2, (2, 2), np.int32), spaces.MultiBinary([2, 3])),
    "scalar": (spaces.Box(-2.0, 2.0, (), np.float32), spaces.Discrete(3, start=-5)),
}
IMAGES = {
    "rows-first": (spaces.Box(0, 255, (9, 12, 3), np.uint8), spaces.Discrete(5)),
    "channels-first": (spaces.Box(0, 255, (3, 9, 12), np.uint8), spaces.Discrete(5)),
    "grey": (spaces.Box(0, 255, (9, 12), np.uint8), spaces.Discrete(5)),
}  # they are embedded and not predicted
SMALL = {"width": 16, "layers": 2, "heads": 2, "inner": 24, "window": 9, "slide": 4}
GENERAL = {*SMALL, "rewards", "dynamics", "dropout"}  # settings of most methods
OWN = {
    "la-bc": {"latent": 4, "codes": 6},
    "headless-ad": {"vector_size": 6},
    "cad": {"latents": 2, "compressor_heads": 2, "folds": 3, "folds_with_gradient": 2},
    "idt": {"chunk": 3, "latent": 4},
    "marked-ad": {"min_length": 2},
    "prompted-dt": {"demos": 2, "prompt": 8},
}


@dataclass(frozen=True)
class Variant:
    """One way of configuring a method."""

    method: str
    settings: tuple[tuple[str, object], ...] = ()
    kind: str = "grid"  # of its spaces

    def __str__(self) -> str:
        kind = [] if self.kind == "grid" else [self.kind]
        return "-".join([self.method, *(f"{name}={value}" for name, value in self.settings), *kind])

    def build(self, kind: str | None = None, **changes: object) -> ICAgent:
        method = METHODS[self.method]
        torch.manual_seed(0)
        given = {**SMALL, **OWN.get(self.method, {}), **dict(self.settings), **changes}
        config = method.Config(**fitting(self.method, given))
        agent = ICAgent(method(*{**SPACES, **IMAGES}[kind or self.kind], config))
        for parameter in agent.parameters():  # larger than at the start of training, so that errors show
            torch.nn.init.normal_(parameter, std=0.3)
        return agent.eval()


SEGMENT_PROMPTS = Variant("prompted-dt", (("demo_steps", 3),))  # its demonstrations are segments of episodes
LATENT_PROMPTS = Variant("prompted-dt", (("latent", 4), ("codes", 6)))  # it acts in the latent actions of `lifetimes`


def has(name: str, setting: str) -> bool:
    return setting in {field.name for field in fields(METHODS[name].Config)}


def fitting(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings without those of a transformer, if a method has none."""
    return {field: value for field, value in settings.items() if has(name, field) or field not in GENERAL}


def learners() -> list[str]:
    """Methods that learn from fresh lifetimes, without columns that another model writes."""
    return [name for name, method in METHODS.items() if LATENT not in method.learns_from]


def imagines(name: str) -> bool:
    """Whether a method can be trained with dynamics."""
    if not has(name, "dynamics"):
        return False
    try:
        METHODS[name].Config(dynamics=True)
    except ValueError:
        return False
    return True


def variants() -> list[Variant]:
    """Every registered method, with and without dynamics, every choice of layout and of the unit of rewards it has."""
    found = []
    for name, method in METHODS.items():
        found += [Variant(name), Variant(name, (("dynamics", True),))] if imagines(name) else [Variant(name)]
        found += [Variant(name, (("layout", layout),)) for layout in method.Config.CHOICES.get("layout", ())[1:]]
        found += [Variant(name, (("prev_obs", True), ("gate", "hard")))] if has(name, "prev_obs") else []
        if has(name, "rewards") and method.Config().rewards != "fixed":
            found += [Variant(name, (("rewards", "fixed"), ("dynamics", imagines(name))))]
    return [*found, SEGMENT_PROMPTS, LATENT_PROMPTS]


def heads() -> list[Variant]:
    """A mixture and a flow of Box actions in AD, and a flow in every other method with such actions; all with bins."""
    methods = [name for name in METHODS if name not in ("ad", "headless-ad")]
    found = [Variant("ad", (("head", head), ("bins", 3)), "vector") for head in ("mixture", "flow")]
    return found + [Variant(name, (("head", "flow"), ("bins", 3)), "vector") for name in methods]


def images() -> list[Variant]:
    """Every registered method that does not always predict observations, on images; AD on every form of them."""
    methods = [name for name, method in METHODS.items() if not method.always_predicts]
    return [Variant("ad", kind=kind) for kind in IMAGES] + [
        Variant(name, kind="rows-first") for name in methods if name != "ad"
    ]


def sample(space: Space, rows: int, count: int, seed: int) -> np.ndarray:
    space.seed(seed)
    return np.stack([[space.sample() for _ in range(count)] for _ in range(rows)])


def lifetimes(kind: str = "grid", rows: int = 3, count: int = 30, seed: int = 0, ends: float = 0.2) -> Steps:
    """Arbitrary lifetimes with episode ends at places that differ by row, and what training windows tell of them."""
    obs_space, action_space = {**SPACES, **IMAGES}[kind]
    rng = np.random.default_rng(seed)
    obs = sample(obs_space, rows, count + 1, seed)
    ended = rng.random((rows, count)) < ends
    kinds = rng.random((rows, count)) < 0.5
    action = sample(action_space, rows, count, seed + 1)
    reward = rng.random((rows, count)).astype(np.float32)
    log_prob = np.log(rng.uniform(0.1, 0.5, (rows, count))).astype(np.float32)  # none is sure: runs need test_marked_ad
    extras = {"expert_action": sample(action_space, rows, count, seed + 2), "log_prob": log_prob}
    code = np.abs(action.reshape(rows, count, -1)).sum(-1, keepdims=True).astype(np.int64) % 6  # of what was done
    extras |= {LATENT: rng.normal(size=(6, 4)).astype(np.float32)[code[..., 0]], CODE: code}
    steps = stack_steps(obs[:, :-1], action, reward, obs[:, 1:], ended & kinds, ended & ~kinds, extras=extras)
    return with_timesteps(with_reward_range(steps))


def given(agent: ICAgent, steps: Steps) -> Steps:
    """The steps of lifetimes that know from the start what the agent's lifetimes do, with the noise of a loss."""
    rng = np.random.default_rng(0)
    return agent.method.draw_noise(steps._replace(static=agent.method.draw_static(len(steps.mask), None, rng)), rng)


def statistics(distribution: object) -> torch.Tensor:
    """The numbers that define a distribution, for comparisons."""
    distribution = getattr(distribution, "base", distribution)  # of one that always takes the mode
    if hasattr(distribution, "codes"):
        codes = distribution.codes.logits
        return torch.cat([codes, statistics(distribution.actions).flatten(codes.dim() - 1)], -1)
    if hasattr(distribution, "parts"):
        return torch.cat([part.logits for part in distribution.parts], -1)
    if hasattr(distribution, "weights"):
        return torch.cat(
            [distribution.weights.logits, distribution.mean.flatten(-2), distribution.log_std.flatten(-2)], -1
        )
    if hasattr(distribution, "field"):
        return distribution.field.condition
    return distribution.logits if hasattr(distribution, "logits") else distribution.mean


def close(agent: ICAgent, steps: Steps, t: int, active: np.ndarray | None = None) -> None:
    """Close the open step of the rows `active` (B,) bool, None for all, with the outcomes of column `t` of `steps`."""
    active = np.ones(agent.context.rows, bool) if active is None else active
    ends = steps.terminated[:, t], steps.truncated[:, t]
    agent.context.close(steps.action[:, t], steps.reward[:, t], steps.next_obs[:, t], *ends, active)
