"""Updates of weights: anything `Trainable` can be trained, whether it acts or not."""

from __future__ import annotations

import accelerate
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from icrl_agents.core.steps import Steps
from icrl_agents.methods.base.coded import CodedModel
from icrl_agents.methods.base.config import AgentConfig
from icrl_agents.methods.base.method import Method
from icrl_agents.training.config import TrainConfig
from icrl_agents.training.update import Updater, learning_rate, make_optimizer
from tests.fakes import GRID, SPACES, lifetimes

CONFIG = TrainConfig(updates=2, batch_size=6, micro_batch=4, lr=0.05, warmup=0.0)


class NextObs(CodedModel):
    """Predicts the next observation of every step from observation and action; it never acts."""

    def __init__(self) -> None:
        super().__init__(*SPACES["grid"], AgentConfig(width=8, heads=2, dynamics=True))
        self.layer = nn.Linear(8, 8)

    def loss(self, steps: Steps) -> dict[str, Tensor]:
        hidden = self.layer(self.obs.embed(steps.obs) + self.action.embed(steps.action))  # (B, T, D)
        nll = -self.obs.head(hidden).log_prob(steps.next_obs)
        return {"next_obs": (nll * steps.mask).sum() / self.loss_weight(steps)}


@pytest.fixture
def updater() -> Updater:
    torch.manual_seed(0)
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision="no")
    model = NextObs()
    model, optimizer = accelerator.prepare(model, make_optimizer(model, CONFIG))
    return Updater(accelerator, model, optimizer, CONFIG, span=20)


def batch() -> Steps:
    steps = lifetimes(rows=CONFIG.batch_size, count=20)
    return steps._replace(mask=np.arange(20) < np.array([20, 5, 9, 20, 1, 12])[:, None])


def test_what_never_acts_is_trained(updater: Updater):
    assert not isinstance(updater.method, Method)
    assert updater.method.observation_space == GRID
    before = {name: weight.clone() for name, weight in updater.method.state_dict().items()}
    rows = [row for number in range(CONFIG.updates) for row in updater.update(batch(), number)]
    assert [row["update"] for row in rows] == [1, 2]
    assert [row["lr"] for row in rows] == [learning_rate(number, CONFIG) for number in range(2)]
    assert rows[1]["loss"] < rows[0]["loss"]
    assert not torch.equal(updater.method.layer.weight, before["layer.weight"])


def test_the_loss_is_that_of_the_whole_batch(updater: Updater):
    """Micro-batches of rows with different numbers of steps weigh as their steps do."""
    with torch.no_grad():
        whole = updater.method.loss(updater.method.tensors(batch()))["next_obs"].item()
    (row,) = updater.update(batch(), 0)
    assert row["next_obs"] == row["loss"] == pytest.approx(whole, abs=1e-5)


def test_a_loss_that_is_not_finite_is_refused_and_changes_nothing(updater: Updater):
    with torch.no_grad():
        updater.method.layer.weight[0, 0] = torch.nan
    before = updater.method.layer.bias.clone()
    with pytest.raises(ValueError, match=r"the loss became nan at update 2: lower lr=0.05 or clip="):
        updater.update(batch(), 1)
    assert torch.equal(updater.method.layer.bias, before)
