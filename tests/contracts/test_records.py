"""What agents, recorders and the rollout loop remember of an env is what its dynamics did, or one line refuses it.

The ground truth of a record is its own actions, replayed in a fresh single environment of the same task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers import vector as batched

from icrl_agents.agents.agent import ICAgent
from icrl_agents.core.rollout import rollout
from icrl_agents.core.steps import Steps
from icrl_agents.histories.recorder import RecordHistory
from icrl_agents.methods import METHODS
from tests.fakes import Variant

ID, GOAL, HORIZON = "icrl/Darkroom3x3-v0", (0, 2), 6
ROWS, STEPS = 3, 32  # five ends of episodes in each row
MODES = list(AutoresetMode)
SAME = lambda x: x  # noqa: E731

VECTOR: dict[str, Callable[[VectorEnv], VectorEnv]] = {  # those that keep the spaces
    "none": SAME,
    "RecordEpisodeStatistics": batched.RecordEpisodeStatistics,
    "DictInfoToList": batched.DictInfoToList,
    "ClipReward": lambda env: batched.ClipReward(env, -10, 10),
    "TransformReward": lambda env: batched.TransformReward(env, SAME),
    "TransformAction": lambda env: batched.TransformAction(env, SAME, env.action_space, env.single_action_space),
    "TransformObservation": lambda env: batched.TransformObservation(env, SAME),
    "VectorizeTransformObservation": lambda env: batched.VectorizeTransformObservation(
        env, wrappers.TransformObservation, func=SAME, observation_space=env.single_observation_space
    ),
    "NumpyToTorch": batched.NumpyToTorch,
    "both": lambda env: batched.DictInfoToList(batched.RecordEpisodeStatistics(env)),
}
SINGLE: dict[str, Callable[[gymnasium.Env], gymnasium.Env]] = {
    "none": SAME,
    "Autoreset": wrappers.Autoreset,
    "Autoreset inside": lambda env: wrappers.RecordEpisodeStatistics(wrappers.Autoreset(env)),
    "RecordEpisodeStatistics": wrappers.RecordEpisodeStatistics,
    "ClipReward": lambda env: wrappers.ClipReward(env, -10, 10),
    "TransformReward": lambda env: wrappers.TransformReward(env, SAME),
    "TransformObservation": lambda env: wrappers.TransformObservation(env, SAME, env.observation_space),
    "TransformAction": lambda env: wrappers.TransformAction(env, SAME, env.action_space),
    "TimeLimit": lambda env: wrappers.TimeLimit(env, 4),
    "DtypeObservation": lambda env: wrappers.DtypeObservation(env, np.int32),
    "NumpyToTorch": wrappers.NumpyToTorch,
}


def as_list(info: Any) -> list[dict[str, Any]]:
    """An info as `DictInfoToList` has it, with what is needed here."""
    if isinstance(info, list):
        return info
    finals = info.get("final_obs")
    return [{} if finals is None or finals[row] is None else {"final_obs": finals[row]} for row in range(ROWS)]


INFOS: dict[str, Callable[[Any], Any]] = {"given": SAME, "absent": lambda info: None, "list": as_list}


def make(shell: str, mode: AutoresetMode) -> VectorEnv:
    if shell == "native":
        return gymnasium.make_vec(ID, ROWS, goal=GOAL, autoreset_mode=mode)
    return gymnasium.make_vec(ID, ROWS, shell, vector_kwargs={"autoreset_mode": mode}, goal=GOAL)


def transitions(env: Any, act: Callable[[Any], Any], caller_resets: bool) -> Iterator[tuple[Any, ...]]:
    """What a Gymnasium loop shows a learner, step by step."""
    obs, _ = env.reset(seed=0)
    for _ in range(STEPS):
        action = act(obs)
        obs, *rest = env.step(action)
        yield obs, *rest
        ended = np.asarray(rest[1]) | np.asarray(rest[2])
        if caller_resets and ended.any():
            obs, _ = env.reset(options={"reset_mask": ended} if ended.ndim else None)


def check_record(steps: Steps, limit: int = HORIZON) -> int:
    """Every row of a record is what its actions do in a fresh environment; gives the number of ended episodes."""
    for row, count in enumerate(steps.mask.sum(1)):
        env, done, time = gymnasium.make(ID, goal=GOAL, max_episode_steps=limit), True, 0
        for t in range(count):
            if done:
                obs, time = env.reset()[0], 0
            assert steps.first[row, t] == (time == 0)
            np.testing.assert_array_equal(steps.obs[row, t], obs)
            obs, reward, terminated, truncated, _ = env.step(int(steps.action[row, t]))
            np.testing.assert_array_equal(steps.next_obs[row, t], obs, err_msg=f"row {row}, step {t}")
            told = steps.reward[row, t], steps.terminated[row, t], steps.truncated[row, t]
            assert told == (reward, terminated, truncated)
            done, time = terminated or truncated, time + 1
    return int((steps.terminated | steps.truncated)[steps.mask].sum())


def learner(observation_space: gymnasium.Space) -> ICAgent:
    """A small agent whose window holds all steps."""
    fake = Variant("ad").build(window=STEPS + 1, slide=1)
    return ICAgent(METHODS["ad"](observation_space, fake.action_space, fake.config)).eval()


def lived(env: Any, single: bool, mode: Any, reset: str, info: str, limit: int = HORIZON) -> str:
    """The outcome of a loop with an agent: "right" or "refused"; a wrong record fails."""
    agent = learner(env.observation_space if single else env.single_observation_space)
    agent.reset(env if reset == "env" else None, num_envs=None if single or reset == "env" else ROWS, seed=0)
    outcome = "right"
    try:
        for obs, reward, terminated, truncated, told in transitions(env, agent.act, mode == AutoresetMode.DISABLED):
            agent.observe(obs, reward, terminated, truncated, INFOS[info](told))
    except ValueError:
        outcome = "refused"
    ends = check_record(agent.context.visible(), limit)
    assert outcome == "refused" or ends >= 4
    env.close()
    return outcome


def supported(wrapper: str, mode: AutoresetMode) -> bool:
    """Whether Gymnasium itself lets the wrapper around an env of the mode."""
    same_step_refused = (
        "TransformObservation",
        "VectorizeTransformObservation",
        "NumpyToTorch",
    )  # the latter fails at the first end of an episode
    return mode != AutoresetMode.SAME_STEP or wrapper not in same_step_refused


@pytest.mark.slow
@pytest.mark.parametrize("info", INFOS)
@pytest.mark.parametrize("reset", ["env", "num_envs"])
@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("wrapper", VECTOR)
@pytest.mark.parametrize("shell", ["native", "sync"])
def test_an_agent_in_a_vector_env(shell: str, wrapper: str, mode: AutoresetMode, reset: str, info: str):
    if not supported(wrapper, mode):
        pytest.skip("Gymnasium refuses it")
    outcome = lived(VECTOR[wrapper](make(shell, mode)), False, mode, reset, info)
    may_refuse = (info == "absent" and (mode == AutoresetMode.SAME_STEP or reset == "num_envs")) or (
        reset == "num_envs" and mode != AutoresetMode.SAME_STEP
    )
    assert outcome == "right" or may_refuse


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_an_agent_in_processes(mode: AutoresetMode):
    assert lived(make("async", mode), False, mode, "env", "given") == "right"


@pytest.mark.slow
@pytest.mark.parametrize("info", ["given", "absent"])
@pytest.mark.parametrize("reset", ["env", "nothing"])
@pytest.mark.parametrize("wrapper", SINGLE)
def test_an_agent_in_a_single_env(wrapper: str, reset: str, info: str):
    env = SINGLE[wrapper](gymnasium.make(ID, goal=GOAL))
    resets_itself = "Autoreset" in wrapper
    mode = AutoresetMode.NEXT_STEP if resets_itself else AutoresetMode.DISABLED
    if resets_itself and reset == "nothing":  # it cannot be known, but looks like it
        with pytest.warns(UserWarning, match="is remembered right with agent.reset"), pytest.raises(AssertionError):
            lived(env, True, mode, reset, info)
        return
    assert lived(env, True, mode, reset, info, 4 if wrapper == "TimeLimit" else HORIZON) == "right"


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("wrapper", VECTOR)
@pytest.mark.parametrize("shell", ["native", "sync"])
def test_a_recorder(shell: str, wrapper: str, mode: AutoresetMode):
    """Wrapped, and as what is wrapped."""
    if not supported(wrapper, mode):
        pytest.skip("Gymnasium refuses it")
    for order in ("outside", "inside"):
        recorder = RecordHistory(VECTOR[wrapper](make(shell, mode)) if order == "outside" else make(shell, mode))
        env = recorder if order == "outside" else VECTOR[wrapper](recorder)
        rng = np.random.default_rng(0)
        for _ in transitions(env, lambda obs: rng.integers(0, 5, ROWS), mode == AutoresetMode.DISABLED):  # noqa: B023
            pass
        assert check_record(recorder.steps()) >= 4 * ROWS
        env.close()


class Script:
    """A learner of fixed random actions that knows nothing of resets."""

    def reset(self, env: VectorEnv, *, seed: int | None = None) -> None:
        self.rng = np.random.default_rng(seed)

    def act(self, obs: Any) -> Any:
        return self.rng.integers(0, 5, ROWS)

    def observe(self, obs: Any, reward: Any, terminated: Any, truncated: Any, info: Any) -> None:
        """It learns nothing."""


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("wrapper", VECTOR)
@pytest.mark.parametrize("shell", ["native", "sync"])
def test_the_loop(shell: str, wrapper: str, mode: AutoresetMode):
    if not supported(wrapper, mode):
        pytest.skip("Gymnasium refuses it")
    recorder = RecordHistory(make(shell, mode))
    returns = rollout(Script(), VECTOR[wrapper](recorder), 4, seed=0)
    steps = recorder.steps(4)
    check_record(steps)
    episode = np.cumsum(steps.first & steps.mask, 1) - 1
    expected = [[steps.reward[r, (episode[r] == e) & steps.mask[r]].sum() for e in range(4)] for r in range(ROWS)]
    np.testing.assert_allclose(returns, expected)


class Unnamed(gymnasium.vector.VectorWrapper):
    """A vector env that does not say how it resets."""

    @property
    def metadata(self) -> dict[str, Any]:
        return {}


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_an_env_that_does_not_say_its_mode(mode: AutoresetMode):
    """Only SAME_STEP shows in what an env returns; a recorder also sees the resets of its caller."""
    outcome = lived(Unnamed(make("native", mode)), False, mode, "env", "given")
    assert outcome == "right" or mode != AutoresetMode.SAME_STEP
    recorder, rng = RecordHistory(Unnamed(make("native", mode))), np.random.default_rng(0)
    loop = transitions(recorder, lambda obs: rng.integers(0, 5, ROWS), mode == AutoresetMode.DISABLED)
    if mode == AutoresetMode.NEXT_STEP:
        with pytest.raises(ValueError, match="was not reset"):
            list(loop)
        with pytest.raises(ValueError, match="was not reset"):
            rollout(Script(), Unnamed(make("native", mode)), 3, seed=0)
    else:
        list(loop)
    assert check_record(recorder.steps()) >= ROWS
    if mode == AutoresetMode.NEXT_STEP:
        agent = learner(recorder.single_observation_space)
        agent.reset(Unnamed(make("native", mode)), autoreset_mode="NextStep")
        with pytest.raises(ValueError, match="autoreset_mode='SameStep', but the env has 'NextStep'"):
            agent.reset(make("native", mode), autoreset_mode="SameStep")


FINALS = {
    "missing": lambda final: {},
    "none": lambda final: {"final_obs": None},
    "none of the row": lambda final: {"final_obs": np.array([None] * ROWS)},
    "masked": lambda final: {"final_obs": final, "_final_obs": np.zeros(ROWS, bool)},
    "broadcast": lambda final: {"final_obs": [3] * ROWS},
    "float": lambda final: {"final_obs": [one + 0.9 for one in final]},
    "text": lambda final: {"final_obs": ["4"] * ROWS},
    "short": lambda final: {"final_obs": []},
    "flag": lambda final: {"final_obs": True},
    "too large": lambda final: {"final_obs": [one.astype(np.int64) + 2**40 for one in final]},
    "outside": lambda final: {"final_obs": [one + 9 for one in final]},
    "a list": lambda final: [1, 2, 3],
    "a text": lambda final: "info",
    "fewer rows": lambda final: [{}],
}


@pytest.mark.slow
@pytest.mark.parametrize("case", FINALS)
def test_final_observations_are_checked_before_anything_is_remembered(case: str):
    env = make("native", AutoresetMode.SAME_STEP)
    agent = learner(env.single_observation_space)
    obs, _ = env.reset(seed=0)
    agent.reset(env, seed=0)
    for _ in range(HORIZON - 1):
        result = env.step(agent.act(obs))
        agent.observe(*result)
        obs = result[0]
    obs, reward, terminated, truncated, info = env.step(agent.act(obs))
    with pytest.raises(ValueError, match=r"final_obs|info is a|final observation") as caught:
        agent.observe(obs, reward, terminated, truncated, FINALS[case](info["final_obs"]))
    assert "\n" not in str(caught.value)
    assert agent.context.length.tolist() == [HORIZON - 1] * ROWS
    agent.observe(obs, reward, terminated, truncated, info)
    check_record(agent.context.visible())


@pytest.mark.parametrize("final", [np.array([1.0, 2.0]), np.array([5]), 3, "4", True, [], {"a": 1}])
def test_a_single_env_with_a_malformed_final_observation(final: Any):
    agent = Variant("ad").build()
    agent.reset(seed=0)
    agent.act(np.array([1, 2], np.int32))
    with pytest.raises(ValueError, match="final_obs"):
        agent.observe(np.array([3, 4], np.int32), 0.0, True, False, {"final_obs": final})
    agent.observe(np.array([3, 4], np.int32), 0.0, True, False, {"final_obs": np.array([5, 6])})
    assert agent.context.visible().next_obs[0, 0].tolist() == [5, 6]


def test_rows_that_are_reset_by_hand_in_a_next_step_env():
    """Every episode of every row is cut short by `env.reset()`: no step is taken for the dummy of a reset."""
    env = make("native", AutoresetMode.NEXT_STEP)
    agent = learner(env.single_observation_space)
    agent.reset(env, seed=0)
    for _ in range(4):
        obs, _ = env.reset()
        ended = np.zeros(ROWS, bool)
        while not ended.all():
            obs, reward, terminated, truncated, info = env.step(agent.act(obs) * 0)  # to the wall, not to the start
            agent.observe(obs, reward, terminated, truncated, info)
            ended = terminated | truncated
    assert agent.context.length.tolist() == [4 * HORIZON] * ROWS


class Broken(gymnasium.vector.VectorWrapper):
    """Returns one thing that is not as Gymnasium has it, in the third step."""

    def __init__(self, env: VectorEnv, place: int, value: Callable[[Any], Any]):
        super().__init__(env)
        self.place, self.value, self.count = place, value, 0

    def step(self, actions: Any) -> Any:
        result = list(self.env.step(actions))
        self.count += 1
        if self.count == 3:
            result[self.place] = self.value(result[self.place])
        return tuple(result)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, lambda obs: obs + 0.5),
        (0, lambda obs: obs[:, :1]),
        (0, lambda obs: obs.astype(np.int64) + 2**40),
        (1, lambda reward: reward + 1e39),
        (1, lambda reward: reward[:1]),
        (1, lambda reward: ["a"] * ROWS),
        (2, lambda flag: flag.astype(int)),
        (3, lambda flag: flag[:2]),
    ],
)
def test_a_recorder_refuses_what_it_cannot_keep(place: int, value: Callable[[Any], Any]):
    recorder = RecordHistory(Broken(make("native", AutoresetMode.SAME_STEP), place, value))
    recorder.reset(seed=0)
    actions = np.zeros(ROWS, int)
    for _ in range(2):
        recorder.step(actions)
    with pytest.raises(ValueError, match="check the env"):
        recorder.step(actions)
    for call in (lambda: recorder.step(actions), recorder.steps):
        with pytest.raises(ValueError, match="the record has a gap"):
            call()
    recorder.reset()
    recorder.step(actions)
    assert check_record(recorder.steps()) == 0


@pytest.mark.parametrize("actions", [[0.5] * ROWS, [0] * (ROWS + 1), [2**40] * ROWS, None])
def test_a_recorder_refuses_actions_before_the_step(actions: Any):
    recorder = RecordHistory(make("native", AutoresetMode.SAME_STEP))
    recorder.reset(seed=0)
    with pytest.raises(ValueError, match="action"):
        recorder.step(actions)
    recorder.step(np.zeros(ROWS, int))
    assert recorder.steps().mask.sum() == ROWS
