"""Behavioural cloning (BC)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from icrl_agents.core.printable import printable
from icrl_agents.core.steps import HEAD_NOISE, MissingColumnError, Steps, holds_actions
from icrl_agents.methods.base.percepts import intended_action, masked_nll
from icrl_agents.methods.base.predictor import witnessed
from icrl_agents.methods.imitation.reactive import ReactiveConfig, ReactiveMethod

RECORDED = ("action", "expert_action")  # targets that are known at every step; others were found in videos


@dataclass(frozen=True)
class BCConfig(ReactiveConfig):
    target: str = "action"  # column to imitate: "action", "expert_action", or one that `annotate` wrote: "vpt_action"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target != "action" and not holds_actions(self.target):
            raise ValueError(
                f"target={printable(self.target)} is no column of actions: give action, expert_action or vpt_action"
            )


class BC(ReactiveMethod):
    """Behavioural cloning: a policy of the current observation that imitates recorded actions (Pomerleau 1991).

    With `target="vpt_action"` it imitates the actions that an inverse model has found in videos (`vpt`), which is BC
    in Video PreTraining (Baker et al. 2022, arXiv 2206.11795). The setting `labels` limits it to that many steps.

    Tokens: the observation of a step. Loss: mean over all steps t of -log p(action_t | obs_t).

    Deviations: the policy reads one frame; that of Video PreTraining reads 128.
    """

    Config = BCConfig
    config: BCConfig
    labelled_share = 1.0

    def prepare_batch(self, steps: Steps, rng: np.random.Generator, progress: float = 1.0) -> Steps:
        if self.config.target != "action" and self.config.target not in steps.extras:
            raise MissingColumnError("bc", self.config.target, "annotate them, or leave target out")
        return steps

    def loss(self, steps: Steps) -> dict[str, Tensor]:
        name = self.config.target
        target = intended_action(steps) if name == "action" else steps.extras[name]
        asked = steps.mask if name in RECORDED else witnessed(steps)
        policy, noise = self.policy_at(self.hidden(steps)[:, :, 0]), steps.extras.get(HEAD_NOISE)
        return {"action": masked_nll(policy, target, asked, steps.mask.sum(), noise)}
