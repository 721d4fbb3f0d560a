"""DT: the current episode and nothing else, at the right timesteps, in training and acting."""

import numpy as np
import pytest
import torch

from icrl_agents.agents.agent import ICAgent
from icrl_agents.core.reward_range import with_timesteps
from icrl_agents.core.steps import Steps, stack_steps
from icrl_agents.methods import METHODS
from icrl_agents.training.loop import train
from tests.conftest import one_line
from tests.fakes import Variant, close, lifetimes, statistics

RETURNS = Variant("dt", (("return_to_go", True),))
BOTH = pytest.mark.parametrize("variant", [Variant("dt"), RETURNS], ids=str)
ALL = np.ones(3, bool)


def policy(agent: ICAgent, obs: np.ndarray) -> torch.Tensor:
    return statistics(agent.policy(agent.context, obs))


def trained(agent: ICAgent, steps: Steps) -> torch.Tensor:
    """Statistics (B, T, ...) of the policy as the loss computes it, with the true returns to go."""
    told, _ = agent.method.told(agent.method.tensors(steps))
    return statistics(agent.method.action_distribution(agent.method.hidden(told)[:, :, 0], {}))


def changed(steps: Steps, where: np.ndarray) -> Steps:
    """Every value replaced by that of other lifetimes at the steps `where` (B, T) bool, but the ends of episodes."""
    other, kept = (
        lifetimes(rows=len(where), count=where.shape[1], seed=9),
        ("first", "start", "terminated", "truncated"),
    )
    found = {
        name: np.where(where.reshape(*where.shape, *[1] * (value.ndim - 2)), other.columns[name], value)
        for name, value in steps.columns.items()
        if name not in kept
    }
    return steps._replace(**found)


class TestWhatAnActionDependsOn:
    @BOTH
    @torch.no_grad()
    def test_nothing_of_its_own_step_or_later(self, variant: Variant):
        """Not its action nor what became of it; with returns, what becomes of it is in the return."""
        agent, steps = variant.build(), lifetimes(count=12)
        wanted = trained(agent, steps)
        for t in range(12):
            noisy = changed(steps, np.broadcast_to(np.arange(12) >= t, (3, 12)))
            now = {name: getattr(noisy, name).copy() for name in ("obs", "prev_obs", "prev_action", "prev_reward")}
            for name, value in now.items():
                value[:, t] = getattr(steps, name)[:, t]
            noisy = noisy._replace(**now, reward=steps.reward if agent.config.return_to_go else noisy.reward)
            found = trained(agent, noisy)
            torch.testing.assert_close(found[:, : t + 1], wanted[:, : t + 1])
            assert t == 11 or not torch.allclose(found[:, t + 1 :], wanted[:, t + 1 :])

    @torch.no_grad()
    def test_the_steps_of_its_episode_before_it(self):
        agent, steps = Variant("dt").build(), lifetimes(count=12)
        wanted = trained(agent, steps)
        begun = (np.arange(12) - steps.extras["timestep"])[:, -1]  # first step of the last episode
        inside = np.arange(12) >= begun[:, None]
        found = trained(agent, changed(steps, ~inside))
        torch.testing.assert_close(found[torch.as_tensor(inside)], wanted[torch.as_tensor(inside)])
        long = begun < 11
        assert long.any()
        first = np.arange(12) == begun[:, None]
        assert not torch.allclose(trained(agent, changed(steps, first))[long, -1], wanted[long, -1])

    @torch.no_grad()
    def test_an_acting_agent_forgets_each_episode(self):
        agent, fresh, steps = Variant("dt").build(), Variant("dt").build(), lifetimes(count=30)
        agent.reset(num_envs=3)
        for t in range(30):
            found = policy(agent, steps.obs[:, t])
            for row in np.flatnonzero(steps.first[:, t]):
                fresh.reset(num_envs=1)
                torch.testing.assert_close(found[row], policy(fresh, steps.obs[row : row + 1, t])[0])
            seen = agent.visible(agent.context)
            wanted = np.minimum(steps.extras["timestep"][:, t], seen.mask.sum(1))
            np.testing.assert_array_equal(seen.mask.sum(1), wanted)
            for row, count in enumerate(wanted):
                np.testing.assert_array_equal(seen.obs[row, :count], steps.obs[row, t - count : t])
            close(agent, steps, t)

    @torch.no_grad()
    def test_a_history_gives_the_episode_that_it_ends_in(self):
        steps = lifetimes(count=7)
        agent, grown = Variant("dt").build(), Variant("dt").build()
        agent.reset(num_envs=3, history=steps.window(0, 6))
        grown.reset(num_envs=3)
        for t in range(6):
            policy(grown, steps.obs[:, t])
            close(grown, steps, t)
        torch.testing.assert_close(policy(agent, steps.obs[:, 6]), policy(grown, steps.obs[:, 6]), atol=1e-5, rtol=1e-5)

    @torch.no_grad()
    def test_without_learning_only_steps_in_a_row_are_an_episode(self):
        steps = lifetimes(count=12, ends=0)
        agent, alone = Variant("dt").build(), Variant("dt").build()
        agent.reset(num_envs=3, history=steps.window(0, 5), learn=False, autoreset_mode="Disabled")
        alone.reset(num_envs=3, history=steps.window(0, 5))
        torch.testing.assert_close(policy(agent, steps.obs[:, 5]), policy(alone, steps.obs[:, 5]))
        for t in (5, 6):
            agent.act(steps.obs[:, t])
            agent.observe(steps.next_obs[:, t], steps.reward[:, t], ~ALL, ~ALL, {})
        now = steps.obs[:, 7]
        parts = {"prev_action": agent.context.steps.prev_action[:, 5:6], "obs": now[:, None]}
        window = steps.window(7, 8)._replace(**parts)
        agent.act(now)
        torch.testing.assert_close(policy(agent.clone(), now), trained(alone, window)[:, 0], atol=1e-5, rtol=1e-5)


class TestLongEpisodes:
    @pytest.mark.parametrize("slide", [1, 4])
    @BOTH
    @torch.no_grad()
    def test_acting_past_the_window_equals_recomputation(self, variant: Variant, slide: int):
        """One episode of four windows; with returns, asking for the true one."""
        agent, steps = variant.build(slide=slide, horizon=30), lifetimes(count=36, ends=0)
        steps.truncated[:, -1] = True
        told = {"target_return": steps.reward.sum(1)} if agent.config.return_to_go else {}
        agent.reset(num_envs=3, **told)
        for t in range(36):
            found, seen = policy(agent, steps.obs[:, t]), int(agent.context.length[0])
            wanted = trained(agent, steps.window(t - seen, None))[:, seen]
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
            close(agent, steps, t)
            assert agent.context.length[0] == min(t + 1, seen + 1) <= 9
        if not told:
            late = steps.window(30, None)
            assert not torch.allclose(trained(agent, with_timesteps(late)), trained(agent, late))

    @torch.no_grad()
    def test_finished_episodes_make_room_before_the_current_one_does(self):
        """The window of 9 is full twice; the current episode stays whole until it alone fills the window."""
        lengths = [5, 3, 8, 1, 1, 6]
        ends = np.isin(np.arange(sum(lengths)), np.cumsum(lengths) - 1)
        steps = lifetimes(rows=3, count=len(ends), ends=0)
        names = ("obs", "action", "reward", "next_obs", "truncated")
        steps = with_timesteps(
            stack_steps(**{name: getattr(steps, name) for name in names}, terminated=np.tile(ends, (3, 1)))
        )
        agent, wanted = Variant("dt").build(), None
        agent.reset(num_envs=3)
        wanted = trained(agent, steps)
        for t in range(len(ends)):
            torch.testing.assert_close(policy(agent, steps.obs[:, t]), wanted[:, t], atol=1e-5, rtol=1e-5)
            assert (agent.visible(agent.context).mask.sum(1) == steps.extras["timestep"][:, t]).all()
            close(agent, steps, t)

    def test_all_their_steps_are_trained_on(self):
        assert not METHODS["dt"].episode_aligned
        agent, steps = Variant("dt").build(), lifetimes(count=36, ends=0)
        batch = agent.method.tensors(steps.window(20, 29))
        assert batch.extras["timestep"][0].tolist() == list(range(20, 29))
        agent.method.loss(batch)["action"].backward()
        used = agent.method.timestep.weight.grad.abs().sum(1).nonzero()[:, 0]
        assert used.tolist() == list(range(20, 29))


class TestReturnToGo:
    @staticmethod
    def toy() -> Steps:
        """Two episodes with returns 3 and 5, and one without an end."""
        reward = np.array([[1, 0, 2, 5, 0, 7]], np.float32)
        ended = np.array([[0, 0, 1, 0, 1, 0]], bool)
        steps = lifetimes(rows=1, count=6)
        return with_timesteps(stack_steps(steps.obs, steps.action, reward, steps.next_obs, ended, ended & False))

    def test_of_each_step_in_training(self):
        agent = RETURNS.build()
        told, known = agent.method.told(agent.method.tensors(self.toy()))
        assert known.tolist() == [[True] * 5 + [False]]
        assert told.extras["return_to_go"][known].tolist() == [3, 2, 2, 5, 0]
        assert agent.method.loss_weight(told) == 5

    def test_steps_without_a_known_return_have_no_loss(self):
        agent, steps = RETURNS.build(), self.toy()
        whole, part = (agent.method.loss(agent.method.tensors(s))["action"] for s in (steps, steps.window(0, 5)))
        torch.testing.assert_close(whole, part)

    def test_the_best_of_the_first_batch_is_asked_for(self, tmp_path):
        agent = RETURNS.build()
        agent.method.fit_normalization(agent.method.tensors(self.toy()))
        agent.save_pretrained(tmp_path)
        for one in (agent, ICAgent.from_pretrained(tmp_path, device="cpu")):
            one.reset(num_envs=2)
            assert one.context.steps.static["target_return"].tolist() == [5, 5]
        agent.reset(num_envs=3, target_return=[1.0, 2.5, 7])
        agent.reset(mask=np.array([True, False, False]))
        agent.reset(mask=np.array([False, True, False]), target_return=4)
        assert agent.context.steps.static["target_return"].tolist() == [5, 4, 7]

    @torch.no_grad()
    def test_rewards_are_subtracted_within_an_episode(self):
        agent, steps = RETURNS.build(), self.toy()
        agent.reset(num_envs=1, target_return=10)
        asked = []
        for t in range(6):
            policy(agent, steps.obs[:, t])
            seen = agent.method.tensors(agent.context.steps)
            asked.append(agent.method.asked(seen)[0, t].item())
            close(agent, steps, t)
        assert asked == [10, 9, 9, 10, 5, 10]

    @torch.no_grad()
    def test_asking_for_more_changes_what_is_done(self):
        agent, obs = RETURNS.build(), lifetimes(count=1).obs[:, 0]
        found = []
        for target in (0.0, 3.0):
            agent.reset(num_envs=3, target_return=target)
            found.append(policy(agent, obs))
        assert ((found[0] - found[1]).abs().amax(1) > 1e-3).all()

    def test_windows_without_the_end_of_an_episode_are_refused(self):
        agent, steps = RETURNS.build(), lifetimes(count=9, ends=0)
        one_line(lambda: agent.method.fit_normalization(agent.method.tensors(steps)), ValueError, "9 steps", "window")

    @pytest.mark.parametrize("target", [np.nan, "3", [1, 2], True])
    def test_what_is_no_number_is_refused(self, target):
        agent = RETURNS.build()
        agent.reset(num_envs=3, target_return=2.0)
        before = agent.session
        one_line(lambda: agent.reset(num_envs=3, target_return=target), ValueError, "target_return", "finite")
        assert agent.session is before

    def test_agents_without_returns_take_no_target(self):
        agent = Variant("dt").build()
        one_line(lambda: agent.reset(target_return=1.0), ValueError, "target_return", "return_to_go=True")


@pytest.mark.parametrize("method", ["dt", "prompted-dt"])
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dynamics": True}, ["dynamics=True", "leave dynamics out"]),
        ({"rewards": "running"}, ["rewards='running'", "leave rewards out"]),
        ({"horizon": 0}, ["horizon"]),
    ],
    ids=str,
)
def test_bad_settings_are_refused(method: str, settings: dict, words: list[str]):
    one_line(lambda: METHODS[method].Config(**settings), ValueError, *words)


@pytest.mark.slow
def test_trains_resumes_and_acts_with_returns(tmp_path):
    quick = {"updates": 4, "batch_size": 4, "width": 16, "heads": 2, "layers": 1, "inner": 16, "window": 40, "slide": 5}
    settings = {**quick, "episodes": 3, "eval_every": 0, "return_to_go": True, "source": "noise"}
    agent = train("dt", "icrl/Darkroom-v0", tmp_path / "run", settings=settings, quiet=True)
    assert agent.method.best_return > 0
    agent.reset(target_return=10.0)
    assert 0 <= agent.act(np.zeros(2, np.int32)) < 5
