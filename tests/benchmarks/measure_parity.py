"""How far a row of a batch is from the same row alone, in the released agents.

    OMP_NUM_THREADS=1 python tests/benchmarks/measure_parity.py [icrl/ad-darkroom ...]

Rows live source lifetimes, skip steps and begin new tasks at times of their own. What they know must be equal. Their
log-probabilities differ by rounding: matrix products of other batch sizes add in another order, in float32 6e-8 of each
sum, which grows through the layers and with the size of a logit.
"""

import sys

import numpy as np
import torch

from icrl_agents import ICAgent, list_pretrained
from icrl_agents.core.splits import split_tasks
from icrl_agents.sources import default_source, make_source
from icrl_agents.sources.collection import lifetimes

ROWS, WATCHED, STEPS = 24, 3, 400
SKIP, BEGIN = 0.1, 0.005  # chances, in each row and step
LIKELY = np.log(1e-3)


def act(agent: ICAgent, obs: np.ndarray, live: np.ndarray) -> np.ndarray:
    """Log-probabilities (B, A) of the actions."""
    return agent.policy(agent.context, obs, live).logits.numpy()


@torch.inference_mode()
def measure(name: str) -> tuple[float, float, float]:
    """The largest difference of log-probabilities, of those of actions above 1e-3, and of probabilities."""
    agent, rng = ICAgent.from_pretrained(name, device="cpu"), np.random.default_rng(0)
    env_id = agent.facts["env_id"]
    splits = split_tasks(env_id)
    tasks = np.resize(splits.validation.ids, ROWS)
    episodes = -(-STEPS // splits.test.rules.horizon)
    steps = lifetimes(env_id, make_source(default_source(env_id), env_id), tasks, episodes, 0)
    masks = steps.static.get("action_mask")
    agent.reset(num_envs=ROWS, seed=0, action_set=masks)
    alone = [ICAgent.from_pretrained(name, device="cpu") for _ in range(WATCHED)]
    worst = np.zeros(3)
    for one, row in zip(alone, range(WATCHED), strict=True):
        one.reset(num_envs=1, seed=0, action_set=None if masks is None else masks[row : row + 1])
    for t in range(STEPS):
        begin = rng.random(ROWS) < BEGIN
        if begin.any():
            agent.reset(mask=begin)
        live = rng.random(ROWS) > SKIP
        batch = act(agent, steps.obs[:, t], live)
        for row, one in enumerate(alone):
            if begin[row]:
                one.reset(mask=np.ones(1, bool))
            known = agent.context.steps.static.items()
            one.context.steps.static.update({name: value[row : row + 1] for name, value in known})
            if not live[row]:
                continue
            single = act(one, steps.obs[row : row + 1, t], np.ones(1, bool))[0]
            worst = np.maximum(worst, differences(batch[row], single))
            assert one.context.length[0] == agent.context.length[row]
            close(one, steps.rows([row]), t, np.ones(1, bool))
        close(agent, steps, t, live)
    return tuple(worst)


def close(agent: ICAgent, steps, t: int, live: np.ndarray) -> None:
    ends = steps.terminated[:, t], steps.truncated[:, t]
    agent.context.close(steps.action[:, t], steps.reward[:, t], steps.next_obs[:, t], *ends, live)


def differences(one: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    legal = np.isfinite(other)
    assert (np.isfinite(one) == legal).all()
    gap, likely = abs(one - other)[legal], other[legal] > LIKELY
    return gap.max(), gap[likely].max(), abs(np.exp(one) - np.exp(other)).max()


if __name__ == "__main__":
    torch.set_num_threads(1)
    for agent_name in sys.argv[1:] or list_pretrained():
        found = measure(agent_name)
        print("{}: log p {:.1e}, of actions above 1e-3 {:.1e}; p {:.1e}".format(agent_name, *found), flush=True)
