"""What latents are worth to an agent that has them: how likely a source's actions are to it, with them and without.

    OMP_NUM_THREADS=1 python tests/benchmarks/measure_latents.py runs/windows/cad-window120-latents8-seed0 [...]

The lifetimes are those of the environment's default source on validation tasks; what counts is -log p of its actions,
with the latents as they are, with zeros, and with those of another task.
"""

import sys

import numpy as np
import torch

from icrl_agents import ICAgent
from icrl_agents.core.splits import split_tasks
from icrl_agents.sources import default_source, make_source
from icrl_agents.sources.collection import lifetimes

TASKS, EPISODES = 24, 20
INTERVENTIONS = {"as they are": lambda x: x, "zeros": torch.zeros_like, "another task's": lambda x: x.roll(1, 0)}


@torch.inference_mode()
def main(folders: list[str]) -> None:
    torch.set_num_threads(1)
    for folder in folders:
        agent = ICAgent.from_pretrained(folder, device="cpu")
        env_id = agent.facts["env_id"]
        tasks = np.array(split_tasks(env_id).validation.ids[:TASKS])
        lived = lifetimes(env_id, make_source(default_source(env_id), env_id), tasks, EPISODES, 0)
        rewarded = np.cumsum(lived.reward > 0, 1) > 0
        steps, memories = agent.method.tensors(lived), agent.method.memories
        for name, change in INTERVENTIONS.items():  # of what is read; what is folded next are the true ones

            def changed(tokens, newest, change=change, memories=memories):
                leads, made = memories(tokens, newest)
                return [change(lead) for lead in leads], made

            agent.method.memories = changed
            loss = -agent.method.action.head(agent.method.hidden(steps)[:, :, 0]).log_prob(steps.action).numpy()
            before, after = loss[~rewarded].mean(), loss[rewarded].mean()
            print(f"{folder}, latents {name}: {loss.mean():.3f}, before a reward {before:.3f}, after it {after:.3f}")


if __name__ == "__main__":
    main(sys.argv[1:])
