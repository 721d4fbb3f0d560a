"""Every example runs, shrunk to seconds, and finds what it says it finds."""

from __future__ import annotations

import importlib.util
import json
import math
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from urllib import error, request

import gymnasium
import numpy as np
import pytest
from icrl_envs import FAMILIES, find_family, unregister_family

from icrl_agents import HistoryStore, collect, train
from icrl_agents.agents import acting
from icrl_agents.agents.agent import ICAgent
from icrl_agents.core.splits import split_tasks
from icrl_agents.evaluation import plots
from icrl_agents.hub import remote as hub
from icrl_agents.methods.headless_ad import HeadlessAD

FOLDER = Path(__file__).parents[2] / "examples"
TINY = {"width": 8, "layers": 1, "heads": 1, "inner": 8, "window": 12, "slide": 6, "episodes": 2, "batch_size": 4,
        "updates": 2, "eval_every": 0}  # fmt: skip


def load(name: str, **constants: Any) -> ModuleType:
    """The example as a module, with other constants."""
    spec = importlib.util.spec_from_file_location(f"example_{name[:2]}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for constant, value in constants.items():
        assert hasattr(module, constant)
        setattr(module, constant, value)
    return module


def test_play_pretrained(tiny_agent, tmp_path, capsys):
    example = load("01_play_pretrained", EPISODES=2)
    if example.AGENT not in hub.list_pretrained():  # its weights are not part of this checkout: any agent will do
        rules = FAMILIES[example.ENV_ID].rules
        tiny_agent(rules.observation_space, rules.action_space).save_pretrained(tmp_path)
        example.AGENT = str(tmp_path)
    returns = example.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(returns) == 2
    assert [line.split("return")[1] for line in lines[1:-1]] == [f" {value:4.1f} of 16.0" for value in returns]
    assert lines[-1].endswith(f"mean return of the last 2 episodes {sum(returns) / 2:.1f}")
    assert "(7, 2)" in lines[0]


@pytest.mark.slow
def test_record_histories(tmp_path, capsys):
    example = load("02_record_histories", PATH=tmp_path / "h.h5", STREAMS=4, TASKS=[31, 40, 41])
    mean = example.main()
    assert mean.shape == (50,)
    assert mean[-10:].mean() > mean[:10].mean() + 3  # Q-learning learns
    assert f"episodes 41-50: mean return {mean[40:].mean():5.2f}" in capsys.readouterr().out


def test_train_ad(tmp_path, capsys):
    example = load("03_train_ad", FOLDER=tmp_path / "run", SETTINGS=TINY, EPISODES=2, SEEDS=1)
    curve = example.main()
    assert curve.runs.shape == (1, 8, 2)
    assert (tmp_path / "run" / "model.safetensors").exists()
    assert f"episode  2: mean return {curve.mean[1]:5.2f}" in capsys.readouterr().out
    assert np.isfinite(curve.runs).all()


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_examples_are_short_and_tested(path):
    assert len(path.read_text().splitlines()) < 80
    assert f"def test_{path.stem[3:]}(" in Path(__file__).read_text()


@pytest.mark.slow
def test_compare(tmp_path, capsys, monkeypatch):
    """As it is but for the figure and fewer lifetimes: both agents learn an unseen goal, and curves have names."""
    drawn = []
    monkeypatch.setattr(plots, "draw_curves", lambda curves, *how: drawn.extend(plots.told_apart(curves)) or b"drawn")
    curves = load("04_compare", FOLDER=tmp_path, SEEDS=8).main()
    assert (tmp_path / "compare.png").read_bytes() == b"drawn"
    assert {curve.name for curve in curves} == {curve.name for curve in drawn} == {"posterior", "ad", "idt"}
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said[:-1]] == [curve.name for curve in curves]
    # shares of the optimum, of which random play earns a tenth; with seeds 0, 1 and 2 ad earns 0.92, 0.90 and 0.90 of
    # it, idt 0.67, 0.73 and 0.25
    for curve, share in zip(curves, (0.9, 0.7, 0.2), strict=True):
        late = curve.mean[-4:].mean()
        assert late > share * curve.optimal.mean() > 1.5 * curve.random.mean(), (curve.name, curve.mean)
        assert late > curve.mean[0] + 0.5, (curve.name, curve.mean)


def test_plan_with_dicp(tmp_path, capsys, tiny_agent):
    rules = FAMILIES["icrl/Darkroom-v0"].rules
    tiny_agent(rules.observation_space, rules.action_space, dynamics=True).save_pretrained(tmp_path)
    curves = load("05_plan_with_dicp", AGENT=str(tmp_path), EPISODES=2, SEEDS=1).main()
    assert "plan" not in curves["no planner"].facts
    assert curves["lookahead"].facts["plan"]["depth"] == 8
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.slow
def test_choose_among_changing_items(tmp_path, capsys):
    worlds = {}
    for env_id, rival, name in (("Bernoulli", "thompson", "num_25"), ("Contextual", "linucb", "num_40")):
        rules = FAMILIES[f"icrl/{env_id}Bandit-v0"].rules
        config = HeadlessAD.Config(width=16, layers=1, heads=2, inner=16, window=300, vector_size=8)
        ICAgent(HeadlessAD(rules.observation_space, rules.action_space, config)).save_pretrained(tmp_path / env_id)
        worlds[f"icrl/{env_id}Bandit-v0"] = str(tmp_path / env_id), rival, (name,)
    results = load("06_choose_among_changing_items", WORLDS=worlds, TASKS=2, VISITORS=300).main()
    assert [who for _, who in results] == ["random", "thompson", "headless-ad", "random", "linucb", "headless-ad"]
    assert results["num_25", "random"][0] > results["num_25", "thompson"][0] > 0
    assert results["num_40", "random"][0] > results["num_40", "linucb"][0] > 0
    assert len(capsys.readouterr().out.splitlines()) == 7


@contextmanager
def served(app: Any) -> Iterator[str]:
    """Address of a server on this machine, on a free port."""
    uvicorn = pytest.importorskip("uvicorn", reason="serving needs the extra serve")
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/users"
    server.should_exit = True
    thread.join()


def post(url: str, body: Any = None) -> tuple[int, dict[str, Any]]:
    """Status and JSON of an answer."""
    data = b"" if body is None else json.dumps(body).encode()
    call = request.Request(url, data, {"content-type": "application/json"}, method="POST")
    try:
        with request.urlopen(call) as answer:
            return answer.status, json.load(answer)
    except error.HTTPError as refusal:
        return refusal.code, json.load(refusal)


@pytest.mark.slow
def test_serve_a_bandit(tmp_path, monkeypatch):
    """Over loopback: two users, late rewards in any order, and a new process that continues."""
    pytest.importorskip("fastapi", reason="serving needs the extra serve")
    rules = FAMILIES["icrl/BernoulliBandit-v0"].rules
    config = HeadlessAD.Config(width=16, layers=1, heads=2, inner=16, window=30, slide=10, vector_size=16)
    ICAgent(HeadlessAD(rules.observation_space, rules.action_space, config)).save_pretrained(tmp_path / "agent")
    example = load("07_serve_a_bandit", AGENT=str(tmp_path / "agent"), FOLDER=tmp_path / "users")
    with served(example.make_app()) as users:
        made = [post(f"{users}/ann/decisions")[1] for _ in range(3)]
        assert [one["decision"] for one in made] == [0, 1, 2]
        assert all(0 <= one["item"] < example.ITEMS for one in made)
        assert post(f"{users}/ann/decisions/2/reward", {"reward": 1}) == (200, {"known": 1})
        assert post(f"{users}/bob/decisions")[1]["decision"] == 0
        assert post(f"{users}/bob/decisions/0/reward", {"reward": 0}) == (200, {"known": 1})
        status, answer = post(f"{users}/ann/decisions/2/reward", {"reward": 1})
        assert (status, "observed already" in answer["detail"]) == (409, True)
        for name, decision, body in (("ann", 1, {"reward": 7}), ("ann", 1, {}), ("..%2Fann", 1, {"reward": 1})):
            assert post(f"{users}/{name}/decisions/{decision}/reward", body)[0] in (404, 422)
        for value in (math.nan, -math.inf, "\ud800", [math.nan], 10**400):  # JSON of Python that JSON has not
            assert post(f"{users}/ann/decisions/1/reward", {"reward": value})[0] == 422
        assert post(f"{users}/ann/decisions/{10**30}/reward", {"reward": 1})[0] == 409
        monkeypatch.setattr(acting, "MOST_LATE", 2)  # of ann's decisions two wait
        assert post(f"{users}/ann/decisions")[0] == 409
    (example.FOLDER / "eve").mkdir()  # as of a process that was killed before it had saved the first context
    with served(example.make_app()) as users:
        assert post(f"{users}/eve/decisions")[1]["decision"] == 0
        assert post(f"{users}/ann/decisions/0/reward", {"reward": 0}) == (200, {"known": 2})
        assert post(f"{users}/ann/decisions")[1]["decision"] == 3
    assert sorted(path.name for path in example.FOLDER.iterdir()) == ["ann", "bob", "eve"]
    (example.FOLDER / "ann" / "context.safetensors").write_bytes(b"{")
    with served(example.make_app()) as users:
        for _ in range(2):  # a fault of the server, not of the request
            status, answer = post(f"{users}/ann/decisions")
            assert (status, "ann/context.safetensors" in answer["detail"]) == (500, True)
        assert post(f"{users}/bob/decisions")[0] == 200


@pytest.fixture
def own_tasks():
    """The ids that the examples register for themselves are free again after the test."""
    before = set(FAMILIES)
    yield
    for env_id in set(FAMILIES) - before:
        unregister_family(env_id)


@pytest.mark.slow
def test_cartpole_hidden_physics(tmp_path, capsys, own_tasks):
    name = "08_cartpole_hidden_physics"
    tasks = tmp_path / "tasks.toml"
    tasks.write_text((FOLDER / f"{name}.toml").read_text().replace("num_tasks = 1000", "num_tasks = 40"))
    tiny = {"SETTINGS": {**TINY, "source": "noise"}, "EXPERT_STEPS": 1024, "RIVAL_STEPS": 1024, "LIVES": 1}
    example = load(name, TASKS=tasks, FOLDER=tmp_path / "run", **tiny)
    agent, rival = example.main()
    family = find_family("CartPole-v1")
    assert agent.tasks == rival.tasks == tuple(family.tasks.split()[1].ids.tolist())  # held out from both
    assert agent.runs.shape == rival.runs.shape == (1, 4, 5)
    assert (agent.runs >= 1).all()
    assert capsys.readouterr().out.count("episode 1:") == 2
    env = example.ManyTasks(told=True)
    obs, _ = env.reset(seed=0)
    assert obs[4:].tolist() == pytest.approx(
        [env.unwrapped.gravity / 10, 5 * env.unwrapped.length, np.sign(env.unwrapped.force_mag)]
    )
    assert {"gravity": env.unwrapped.gravity, "length": env.unwrapped.length}.items() <= env.task.items()
    assert example.ManyTasks(told=False).reset(seed=0)[0].tolist() == obs[:4].tolist()


@pytest.mark.slow
def test_frozen_lake_random_maps(tmp_path, capsys, own_tasks):
    name = "09_frozen_lake_random_maps"
    example = load(name, SETTINGS={**TINY, "source": "noise"}, FOLDER=tmp_path / "run", MAPS=60, LIVES=1)
    curve, walk = example.main()
    train, test = find_family("FrozenLake-v1").tasks.split()
    assert curve.tasks == tuple(test.ids.tolist())
    assert curve.runs.shape == (1, 3, 10)
    assert capsys.readouterr().out.count("held-out maps") == 4
    for task in list(train)[:20]:  # the expert reaches the goal of every map
        env = gymnasium.make("FrozenLake-v1", **task)
        obs, _ = env.reset(seed=0)
        ended, reward = False, 0.0
        while not ended:
            obs, reward, terminated, truncated, _ = env.step(int(example.expert([obs], [task])[0]))
            ended = terminated or truncated
        assert reward == 1
    # maps with an open left and lower edge are solved by that walk, maps without are not
    open_edge = {"desc": ["SFHF", "FFFF", "FFFF", "FFFG"], "is_slippery": False}
    closed = {"desc": ["SFFF", "FFFF", "HFFF", "FFFG"], "is_slippery": False}
    corner = {"desc": ["SHHH", "FHHH", "FHHH", "FFFG"], "is_slippery": False}
    assert example.best_walk([corner], [open_edge, closed, corner]) == pytest.approx(2 / 3)
    assert 0 <= walk <= 1


@pytest.mark.slow
def test_half_cheetah_velocity(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(importlib.import_module("icrl_agents.evaluation.evaluate"), "MOST_RANDOM", 1)  # episodes
    held_out = find_family("icrl/HalfCheetahVel-v0").tasks.split()[1].ids[:2].tolist()
    few = {
        "TASKS": [4, 5],
        "HELD_OUT": held_out,
        "STREAMS": 1,
        "EPISODES": 1,
        "EXPERT_STEPS": {"medium": 1010, "expert": 1020},
    }
    example = load("10_half_cheetah_velocity", FOLDER=tmp_path, SETTINGS={**TINY, "episodes": 1}, **few)
    agent, expert, blind = example.main()
    assert agent.tasks == expert.tasks == blind.tasks == tuple(held_out)
    assert not np.array_equal(expert.runs, blind.runs)
    assert capsys.readouterr().out.count("episode 1 ") == 3
    with HistoryStore(tmp_path / "medium.h5") as medium, HistoryStore(tmp_path / "expert.h5") as expert:
        assert not np.array_equal(medium[4].action, expert[4].action)
        np.testing.assert_allclose(medium[4].obs[..., 17], 0.04)  # the target
    env = example.ManyTargets()
    targets = [env.reset(seed=0)[0][17] for _ in range(3)]
    assert len(set(targets)) == 3
    assert targets[-1] == env.unwrapped.velocity
    expert = example.make_expert()  # from its file
    first, other = (expert(np.zeros((1, 17)), [{"velocity": target}]) for target in (0.0, 3.0))
    assert first.shape == (1, 6)
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(expert(np.zeros((1, 18)), [{"velocity": 3.0}]), other)
    assert not np.array_equal(example.make_expert("medium")(np.zeros((1, 17)), [{"velocity": 3.0}]), other)


@pytest.mark.slow
def test_latent_actions(tmp_path, capsys):
    few = {"TASKS": [0, 1, 2], "HELD_OUT": [3, 4], "EPISODES": 2}
    settings = {"updates": 4, "batch_size": 4, "width": 8, "threads": 1}
    found, error, copied = load("12_latent_actions", FOLDER=tmp_path, SETTINGS=settings, **few).main()
    assert f"purity of the codes {found:.3f}" in capsys.readouterr().out
    assert 0.2 < found <= 1
    assert error > 0
    assert 0.3 < copied < 3


@pytest.mark.slow
def test_act_from_videos(tmp_path, capsys):
    tiny = {"updates": 2, "batch_size": 4, "width": 8}
    held_out = find_family("icrl/PixelGridGoal-v0").tasks.split()[1].ids[:2].tolist()
    few = {"TASKS": [0, 1, 2], "HELD_OUT": held_out, "EPISODES": 1, "VIDEOS": {"streams": 1, "episodes": 2}}
    few |= {"FOLDER": f"{tmp_path}/videos"}
    example = load("13_act_from_videos", LAM=tiny, POLICY=tiny, CLONE=tiny, FEW=tiny, **few)
    example.main(labels=5)
    curves = example.main(labels=5, seed=[0, 1])  # the second call finds seed 0 trained
    assert [(curve.tasks, curve.trainings) for curve in curves] == [(tuple(held_out), 2)] * 6
    found = json.loads((tmp_path / "videos-labels-5.json").read_text())
    assert found["reached"].keys() == {curve.name for curve in curves}
    assert capsys.readouterr().out.count("of the goals reached, random play 0.") == 12
    agent = ICAgent.from_pretrained(tmp_path / "videos-0/labels-5/la-bc", device="cpu")
    assert agent.facts["command"] == "python examples/13_act_from_videos.py --labels 5 --seed 0"
    assert agent.facts["train"]["labels"] == 5


@pytest.mark.slow
def test_prompt_with_videos(tmp_path, capsys):
    tiny = {"updates": 1, "batch_size": 4, "width": 8, "latent": 4, "codes": 6}
    shown = collect("icrl/PixelGridGoal-v0", "noise", tmp_path / "v.h5", tasks=[0, 1], streams=1, episodes=2)
    train("lam", "icrl/PixelGridGoal-v0", tmp_path / "videos-3/lam", histories=shown, settings=tiny, quiet=True)
    held_out = find_family("icrl/PixelGrid-v0").tasks.split()[1].ids[:2].tolist()
    few = {"TASKS": [0, 1, 2], "HELD_OUT": held_out, "EXPERT": {"streams": 1, "episodes": 4}, "SHOWN": (0, 1)}
    settings = {**tiny, "heads": 2, "layers": 1, "demos": 1, "prompt": 20, "window": 20, "slide": 5, "eval_every": 0}
    few |= {"FOLDER": f"{tmp_path}/prompts", "VIDEOS": f"{tmp_path}/videos"}
    curves = load("14_prompt_with_videos", SETTINGS=settings, **few).main(labels=5, seed=[3])
    assert (tmp_path / "prompts-3/labels-5/model.safetensors").exists()
    assert json.loads((tmp_path / "prompts-labels-5.json").read_text())["seeds"] == [3]
    assert [curve.facts["joined"][0].get("demos") for curve in curves] == [None, "show"]
    assert capsys.readouterr().out.count("of the goals reached, random play 0.") == 2


@pytest.mark.slow
def test_act_from_recordings(tmp_path, capsys):
    splits, how = split_tasks("icrl/PointRobot-v0"), {"streams": 1, "episodes": 1}
    tasks = [*splits.train.ids[:3], *splits.validation.ids[:2]]
    files = [
        collect("icrl/PointRobot-v0", source, tmp_path / source / "h.h5", tasks=tasks, **how)  # both have one name
        for source in ("noise", "uniform")
    ]
    tiny, held_out = {"updates": 2, "batch_size": 4, "width": 8}, splits.test.ids[:2].tolist()
    few = {"LAM": {**tiny, "quantizer": "none", "latent": 8}, "CLONE": tiny, "HELD_OUT": held_out}
    example = load("15_act_from_recordings", FOLDER=f"{tmp_path}/runs", **few)
    for seeds in ([0], [0, 1]):  # the second call finds seed 0 trained
        runs, curves = example.main(files[0], files[1], labels=5, seed=seeds, joint=2)
        assert [(curve.tasks, curve.trainings) for curve in curves] == [(tuple(held_out), len(seeds))] * 5
        assert capsys.readouterr().out.count("R2 ") == 5
    assert runs[0][0].keys() == {curve.name for curve in curves}
    assert all(-20 < value < 1 for r2, _ in runs for value in r2.values())
    example.FOLDER += "-own"
    own = example.main(files[0], labels=5, joint=2)[0][0][0]["bc on known actions"]
    other = runs[0][0]["bc on known actions"]
    assert own != other  # labels of the recordings themselves, and of random play
    with HistoryStore(files[0]) as store:
        assert not {"latent_action", "vpt_action"} & set(store[tasks[0]].extras)  # the files given stay as they were
    with HistoryStore(tmp_path / "runs-h-5-0" / "0.h5") as copy, HistoryStore(files[0]) as store:
        np.testing.assert_array_equal(copy[tasks[0]].action, store[tasks[0]].action)


@pytest.mark.slow
@pytest.mark.parametrize("published", [False, True])
def test_meta_world(published, tmp_path):
    pytest.importorskip("metaworld")
    tiny = {**TINY, "bins": 3, "checkpoint_every": 0}
    del tiny["episodes"]
    two = SimpleNamespace(train=split_tasks("icrl/MetaWorld-reach-v0").train[:2])
    fewer = {"split_tasks": lambda *given, **more: two} if published else {}
    example = load("11_meta_world", SETTINGS=tiny, ROUNDS=[(2, 1, {}), (1, 2, {"lr": 1e-3})], **fewer)
    for _ in range(2):  # the second call finds all done
        example.main(folder=tmp_path, published=published)
    agent = ICAgent.from_pretrained(tmp_path / "agent", device="cpu")
    assert agent.facts["source"] == "wrong-goal, agent"
    with HistoryStore(tmp_path / "round-1.h5") as first, HistoryStore(tmp_path / "round-2.h5") as own:
        assert (set(first.tasks) == set(own.tasks)) == published
        assert published or not set(first.tasks) & set(own.tasks)
        assert own[own.tasks[0]].reward.shape == (1, 200)
