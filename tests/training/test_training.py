"""The training loop: it learns, resumes bit for bit, gives the same on two processes, and refuses mistakes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pytest
import torch
from functorch.compile import make_boxed_func
from icrl_envs import FAMILIES
from safetensors.torch import load_file
from torch._dynamo.backends.common import aot_autograd
from torch._inductor.exc import CppCompileError

from icrl_agents import ICAgent, evaluate, train
from icrl_agents.agents.pretrained import init_from
from icrl_agents.core.splits import split_tasks
from icrl_agents.methods import METHODS, MODELS
from icrl_agents.methods.ad import AD
from icrl_agents.nn import compiled
from icrl_agents.nn.codecs.distributions import Categorical
from icrl_agents.nn.devices import accelerate_on
from icrl_agents.nn.transformer import Block
from icrl_agents.sources import make_source
from icrl_agents.training.config import TrainConfig
from icrl_agents.training.loop import UNREAD
from icrl_agents.training.update import learning_rate
from icrl_agents.training.windows import FreshWindows, StoreWindows, WindowSpec, cut_windows
from tests.conftest import one_line
from tests.fakes import IMAGES, SPACES, lifetimes

ID = "icrl/Darkroom3x3-v0"
TINY = {"width": 8, "layers": 1, "heads": 1, "inner": 8, "window": 12, "slide": 6}
FAST = {
    **TINY,
    "episodes": 2,
    "updates": 6,
    "batch_size": 4,
    "eval_every": 0,
    "eval_episodes": 2,
    "checkpoint_every": 1,
}
RECORDED = {name: value for name, value in FAST.items() if name != "episodes"}  # of histories, which have theirs


def run(out, **changes):
    return train("ad", ID, out, settings={**FAST, **changes}, device="cpu", quiet=True)


def weights(out):
    return load_file(Path(out) / "model.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


SCRIPT = """
import json, os, sys
from icrl_agents import train
method, out, settings, *more = sys.argv[1:]
train(method, {env!r}, out, settings=json.loads(settings), device="cpu", quiet=True, resume=bool(more))
os.write(1, b"<" + os.environ.get("WORLD_SIZE", "1").encode() + b">")  # in one piece: print would interleave
"""


def start(tmp_path, out, settings, *more, launcher=(), method="ad"):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(env=ID))
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, *launcher, str(script), method, str(out), json.dumps(settings), *more]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_run_folder_is_a_checkpoint(tmp_path):
    agent = run(tmp_path / "run", eval_every=4)
    loaded = ICAgent.from_pretrained(tmp_path / "run")
    assert same(agent.state_dict(), loaded.state_dict())
    assert loaded.facts["env_id"] == ID
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"train.json", "metrics.jsonl", "README.md"}
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["update"] for row in rows] == list(range(1, 7))
    assert ["validation_return" in row for row in rows] == [False, False, False, True, False, True]
    assert all(row["tokens_per_s"] > 0 for row in rows)


@pytest.mark.slow
def test_same_seed_same_weights(tmp_path):
    first, second, other = (run(tmp_path / str(n), seed=seed).state_dict() for n, seed in enumerate((1, 1, 2)))
    assert same(first, second)
    assert not same(first, other)


@pytest.mark.slow
def test_resume_after_kill_is_bit_identical(tmp_path):
    settings = {**FAST, "updates": 400, "dropout": 0.1, "checkpoint_every": 20}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = start(tmp_path, killed, settings)
    while not list(killed.glob("checkpoints/*0")):  # at least one state is whole
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "model.safetensors").exists()
    resumed = train("ad", ID, killed, settings=settings, device="cpu", quiet=True, resume=True)
    expected = train("ad", ID, whole, settings=settings, device="cpu", quiet=True)
    assert same(expected.state_dict(), resumed.state_dict())
    lines = [(folder / "metrics.jsonl").read_text().splitlines() for folder in (whole, killed)]
    losses = [[json.loads(line)["loss"] for line in part] for part in lines]
    assert losses[0] == losses[1]
    assert not (killed / "checkpoints").exists()


def test_resuming_keeps_the_command_and_the_metrics(tmp_path):
    """Killed before the first state, then after it: every update has one row, the command is that of the start."""
    out = tmp_path / "run"
    run(out, updates=3)
    note = json.loads((out / "train.json").read_text())
    (out / "train.json").write_text(json.dumps({**note, "command": "the first one"}))
    (out / "model.safetensors").unlink()
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"update": 4, "lo')  # cut short by the kill
    resumed = train("ad", ID, out, device="cpu", quiet=True, resume=True)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["update"] for row in rows] == [1, 2, 3]
    assert resumed.facts["command"] == "the first one"


def test_damaged_metrics_are_one_line_when_resuming(tmp_path):
    out = tmp_path / "run"
    run(out, updates=1)
    (out / "model.safetensors").unlink()
    (out / "metrics.jsonl").write_text('{"loss": 1.0}\n')
    one_line(
        lambda: train("ad", ID, out, device="cpu", quiet=True, resume=True),
        ValueError,
        "metrics.jsonl is damaged",
        "--overwrite",
    )


def test_it_writes_where_the_user_stands(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    run(".", updates=1)
    train("ad", ID, tmp_path / "link", settings={**FAST, "updates": 1}, device="cpu", quiet=True, overwrite=True)
    assert (tmp_path / "here" / "model.safetensors").is_file()


def test_the_caller_keeps_its_random_numbers(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(tmp_path / "run", updates=1)
    assert torch.equal(torch.rand(3), expected)


def losses(out):
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_lower_precision_trains_nearly_the_same(tmp_path, monkeypatch):
    """The transformer computes in bf16; heads, log-probabilities and losses are float32."""
    seen, logits, inside = [], Categorical.log_prob, Block.forward

    def listen(self, value):
        seen.append(("head", self.logits.dtype, torch.is_autocast_enabled("cpu")))
        return logits(self, value)

    def enter(self, *args):
        seen.append(("body", torch.float32, torch.is_autocast_enabled("cpu")))
        return inside(self, *args)

    monkeypatch.setattr(Categorical, "log_prob", listen)
    monkeypatch.setattr(Block, "forward", enter)
    exact = run(tmp_path / "1", precision="fp32")
    assert set(seen) == {("head", torch.float32, False), ("body", torch.float32, False)}
    seen.clear()
    lower = run(tmp_path / "2", precision="bf16")  # in the same process
    assert set(seen) == {("head", torch.float32, False), ("body", torch.float32, True)}
    assert {weight.dtype for weight in lower.state_dict().values()} == {torch.float32}
    assert losses(tmp_path / "1") != losses(tmp_path / "2")
    assert losses(tmp_path / "1") == pytest.approx(losses(tmp_path / "2"), rel=0.01)
    for name, weight in exact.state_dict().items():
        torch.testing.assert_close(weight, lower.state_dict()[name], atol=0.02, rtol=0, msg=name)


@pytest.mark.slow
def test_compiled_training_is_nearly_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(compiled, "BACKEND", "eager")
    plain, fast = run(tmp_path / "1", eval_every=6), run(tmp_path / "2", eval_every=6, compile=True)
    assert losses(tmp_path / "2") == pytest.approx(losses(tmp_path / "1"), rel=1e-4)
    assert weights(tmp_path / "1").keys() == weights(tmp_path / "2").keys()
    assert plain.method.body.compiled is None
    assert fast.method.body.compiled is not None


@pytest.mark.slow
def test_metrics_may_be_read_later(tmp_path, monkeypatch):
    """On a GPU several updates are read together: the rows are the same, and those before a checkpoint are there."""
    each = run(tmp_path / "1", checkpoint_every=4, updates=10)
    monkeypatch.setitem(UNREAD, "cpu", 3)
    together = run(tmp_path / "2", checkpoint_every=4, updates=10)
    assert same(each.state_dict(), together.state_dict())
    assert losses(tmp_path / "1") == losses(tmp_path / "2")
    rows = [json.loads(line) for line in (tmp_path / "2" / "metrics.jsonl").read_text().splitlines()]
    assert [row["update"] for row in rows] == list(range(1, 11))
    assert len({row["seconds"] for row in rows}) == 6  # read at 3, 4, 6, 8, 9 and 10


OWN = {  # one window a pass, random numbers, windows with a memory
    "ad": {"dynamics": True},
    "idt": {"dynamics": True, "chunk": 3, "micro_batch": 1},
    "cad": {"latents": 4, "slide": 5, "episodes": 5},  # three folds
}


# --multi_gpu is what starts several processes, CPUs or not; --cpu would start one
LAUNCH = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1")
LAUNCH += ("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0")


def stop_at(monkeypatch, method, number):
    """Ctrl-C in forward pass `number`, which counts from 1."""
    calls, loss = [], METHODS[method].loss

    def counted(agent, steps):
        calls.append(1)
        if len(calls) == number:
            signal.raise_signal(signal.SIGINT)
        return loss(agent, steps)

    monkeypatch.setattr(METHODS[method], "loss", counted)


@pytest.mark.parametrize("method", OWN)
@pytest.mark.slow
def test_two_processes_equal_one(tmp_path, monkeypatch, method):
    """Dropout included; also where they resume what one process has begun.

    With one micro-batch for each process sums have the order of one process, so the weights have the same bits.
    """
    settings = {**FAST, "updates": 5, "micro_batch": 2, "dropout": 0.1, **OWN[method]}
    resumed = ["resume"] if method == "ad" else []
    if resumed:
        with monkeypatch.context() as patch:
            stop_at(patch, method, 5)  # the third update
            with pytest.raises(KeyboardInterrupt, match="continues at update 3"):
                train(method, ID, tmp_path / "two", settings=settings, device="cpu", quiet=True)
    process = start(tmp_path, tmp_path / "two", settings, *resumed, launcher=LAUNCH, method=method)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert output.count("<2>") == 2
    one = train(method, ID, tmp_path / "one", settings=settings, device="cpu", quiet=True)
    if settings["micro_batch"] == 2:
        assert same(weights(tmp_path / "two"), one.state_dict())
        assert losses(tmp_path / "two") == losses(tmp_path / "one")
    for name, weight in weights(tmp_path / "two").items():
        pair = weight, one.state_dict()[name].clone()
        if name.endswith(("key_value.bias", "qkv.bias")):  # softmax ignores those of keys: their gradients are noise
            for value in pair:
                value.unflatten(0, (-1, settings["width"]))[-2] = 0
        torch.testing.assert_close(*pair, atol=1e-5, rtol=1e-4, msg=name)


WAIT = """
import atexit, datetime, pathlib, sys, time
from torch.distributed import distributed_c10d
from icrl_agents import train
from icrl_agents.training import loop

@atexit.register
def threads():  # Linux only
    print([file.read_text() for file in pathlib.Path("/proc/self/task").glob("*/comm")])

if __name__ == "__main__":
    distributed_c10d.default_pg_timeout = datetime.timedelta(seconds=1)
    loop.collect_own = lambda *given: time.sleep(4)
    for number in range(2):
        train("ad", {env!r}, sys.argv[1] + str(number), settings={settings!r}, device="cpu", quiet=True, track=[])
"""


@pytest.mark.slow
def test_launched_processes_wait_for_the_first_and_leave_no_thread(tmp_path):
    """They wait as long as it collects. Threads that outlive Python may abort the process."""
    script = tmp_path / "wait.py"
    script.write_text(WAIT.format(env=ID, settings={**FAST, "updates": 1}))
    done = subprocess.run([sys.executable, *LAUNCH, str(script), str(tmp_path / "run")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "gloo" not in done.stdout
    assert all((tmp_path / f"run{number}/model.safetensors").is_file() for number in range(2))


ALONE = """
import os, sys, time
from icrl_agents import train
from icrl_agents.training import loop, processes

processes.FIRST_REPORTS = 0.5
if os.environ["RANK"] == "0":
    def validate(*given):
        raise ValueError("bad returns")
    loop.validate = validate
if __name__ == "__main__":
    for number in range(2):
        try:
            train("ad", {env!r}, sys.argv[1] + str(number), settings={settings!r}, device="cpu", quiet=True, track=[])
        except (ValueError, OSError) as error:
            os.write(1, (os.environ["RANK"] + str(number) + " " + str(error) + "\\n").encode())
"""


@pytest.mark.slow
def test_launched_processes_do_not_wait_for_one_that_failed(tmp_path):
    """Also where the script goes on; the others end without the error of a library."""
    script = tmp_path / "alone.py"
    script.write_text(ALONE.format(env=ID, settings={**FAST, "updates": 2, "eval_every": 2}))
    command = [sys.executable, *LAUNCH, str(script), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    again = "a training failed here, and other processes may wait in it: start the script again"
    ended = "another process of this training has ended: its own message says why"
    assert sorted(done.stdout.splitlines()) == ["00 bad returns", f"01 {again}", f"10 {ended}", f"11 {again}"]


def test_launched_processes_that_are_not_connected_are_refused(tmp_path, monkeypatch):
    """Each would write to the folder as if it was alone. So is one whose script made an Accelerator for a GPU."""
    with accelerate_on(torch.device("cpu")):
        accelerate.Accelerator(cpu=True)
        monkeypatch.setenv("LOCAL_RANK", "1")
        monkeypatch.setenv("RANK", "1")
        monkeypatch.setenv("WORLD_SIZE", "2")
        one_line(lambda: run(tmp_path / "run"), ValueError, "2 processes", "connects 1", "Accelerator()", "cpu=True")
        monkeypatch.undo()
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_micro_batches_do_not_change_the_result(tmp_path):
    whole, parts = run(tmp_path / "1", micro_batch=64), run(tmp_path / "2", micro_batch=3)
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(weight, parts.state_dict()[name], atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.slow
def test_windows_may_be_short_at_first(tmp_path, monkeypatch):
    """Their first steps alone, and as many more of them in a pass; in the end the result is what it always was."""
    seen = []
    loss = METHODS["ad"].loss

    def listen(agent, steps):
        seen.append(tuple(steps.mask.shape))
        return loss(agent, steps)

    monkeypatch.setattr(METHODS["ad"], "loss", listen)
    run(tmp_path / "run", steps="0:3 0.5:6 0.8:1000", micro_batch=1)
    assert seen == [(4, 3)] * 3 + [(2, 6)] * 2 * 2 + [(1, 12)] * 4
    plain, whole = run(tmp_path / "1"), run(tmp_path / "2", steps="0:12")
    assert same(plain.state_dict(), whole.state_dict())
    short = run(tmp_path / "3", steps="0:1", dynamics=True)
    assert short.method.to_go.std != 1  # statistics are those of whole windows


def test_actions_may_have_other_numbers_in_each_window(tmp_path, monkeypatch):
    seen = []
    loss = METHODS["ad"].loss
    monkeypatch.setattr(METHODS["ad"], "loss", lambda agent, steps: seen.append(steps) or loss(agent, steps))
    settings = {"micro_batch": 64, "batch_size": 64, "updates": 1, "source.slips": 0.3, "window": 24, "slide": 6}
    for renumber in (False, True):
        run(tmp_path / str(renumber), renumber=renumber, **settings)
    plain, moved = seen
    torch.testing.assert_close(plain.obs, moved.obs)  # what happened is the same
    rows, place = torch.arange(64)[:, None], plain.action
    number = torch.full((64, 5), -1)
    number[rows, place] = moved.action
    assert (number[rows, place] == moved.action).all()
    assert ((number != torch.arange(5)) & (number >= 0)).any(1).sum() > 55


@pytest.mark.slow
def test_other_sets_to_train_on(tmp_path, monkeypatch):
    """Its tasks are seen, and no others; those who were trained on them are not measured on them by mistake."""
    env_id, made = "icrl/BernoulliBandit-v0", []
    monkeypatch.setattr(
        "icrl_agents.training.data.FreshWindows", lambda *args: made.append(FreshWindows(*args)) or made[-1]
    )
    settings = {**TINY, "batch_size": 4, "updates": 1, "eval_every": 1, "task_set": "train_30"}
    agent = train("ad", env_id, tmp_path / "a", settings=settings, quiet=True)
    tasks = FAMILIES[env_id].named("train_30").ids
    assert len(made[0].tasks) == 1800
    assert set(made[0].tasks) < set(tasks)
    assert (made[0].batch(0).static["action_mask"].sum(1) == 30).all()
    assert "validation_return" in (tmp_path / "a" / "metrics.jsonl").read_text()
    protocol = {"episodes": 1, "num_seeds": 1}
    with pytest.raises(ValueError, match="are among the agent"):
        evaluate(agent, env_id, **protocol, tasks=made[0].tasks[:2])
    assert evaluate(agent, env_id, **protocol, tasks=[0, 1]).runs.shape == (1, 2, 1)
    agent.facts["train"]["task_set"] = ["train_30"]
    with pytest.raises(ValueError, match="task_set="):
        evaluate(agent, env_id, **protocol, tasks=[0, 1])
    with pytest.raises(ValueError, match="unknown set of tasks to train on 'num_30'"):
        train("ad", env_id, tmp_path / "b", settings={"task_set": "num_30"}, quiet=True)
    assert not (tmp_path / "b").exists()


def test_an_agent_of_other_tasks_is_not_gone_on_with(tmp_path):
    env_id = "icrl/DarkroomMacro-v0"
    settings = {**TINY, "batch_size": 4, "updates": 1, "eval_every": 0, "episodes": 1}
    train("ad", env_id, tmp_path / "a", settings={**settings, "task_set": "all_train"}, quiet=True)
    again = {**settings, "init": str(tmp_path / "a")}
    with pytest.raises(ValueError, match=r"task_set='all_train', this is .* task_set='train': train on the same"):
        train("ad", env_id, tmp_path / "b", settings=again, quiet=True)
    assert not (tmp_path / "b" / "train.json").exists()
    more = train("ad", env_id, tmp_path / "c", settings={**again, "task_set": "all_train", "lr": 1e-30}, quiet=True)
    assert same(more.state_dict(), weights(tmp_path / "a"))


@pytest.mark.slow
def test_it_learns(tmp_path):
    """After seconds of training the agent finds a 3x3 room's goals in context and then goes straight to them."""
    agent = run(
        tmp_path / "run",
        width=32,
        inner=64,
        heads=2,
        layers=2,
        window=48,
        slide=12,
        episodes=8,
        updates=250,
        batch_size=16,
        lr=4e-3,
    )
    curve = evaluate(agent, ID, "train", episodes=8, num_seeds=20)
    late = curve.mean[-3:].mean()
    assert late > 0.75 * curve.optimal.mean(), curve.mean
    assert late > curve.mean[0] + 1
    assert curve.random.mean() < 2


def test_learning_rate_schedule():
    cfg = TrainConfig(updates=100, lr=1.0, warmup=0.1)
    rates = [learning_rate(update, cfg) for update in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0, abs=1e-3)
    assert rates[-1] < 0.02
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)


class TestData:
    def fresh(self, **changes):
        tasks = split_tasks(ID).train.ids
        spec = WindowSpec(**{"window": 12, "batch_size": 8, "seed": 0, **changes})
        return FreshWindows(ID, make_source("posterior", ID), tasks, episodes=4, spec=spec, chunk=16)

    def test_batches_depend_on_seed_and_update_alone(self):
        one, other = self.fresh(), self.fresh()
        ordered = [one.batch(update).obs for update in range(5)]
        assert np.array_equal(other.batch(4).obs, ordered[4])
        assert np.array_equal(other.batch(1).obs, ordered[1])
        assert not np.array_equal(ordered[0], ordered[1])
        assert not np.array_equal(self.fresh(seed=1).batch(0).obs, ordered[0])

    @pytest.mark.slow
    def test_half_of_the_windows_are_beginnings(self):
        steps = lifetimes(rows=400, count=30, ends=0.0)
        steps.first[:, 1:] = False
        windows = cut_windows(steps, 10, np.random.default_rng(0))
        assert windows.reward.shape == (400, 10)
        assert 0.45 < windows.first[:, 0].mean() < 0.65
        row = int(np.flatnonzero(~windows.first[:, 0])[0])
        starts = [s for s in range(21) if np.array_equal(steps.reward[row, s : s + 10], windows.reward[row])]
        assert len(starts) == 1
        assert windows.prev_reward[row, 0] == steps.reward[row, starts[0] - 1]

    def test_training_sees_neither_validation_nor_test_tasks(self):
        splits = split_tasks("icrl/Darkroom-v0")
        ids = [set(part.ids.tolist()) for part in splits]
        assert [len(part) for part in ids] == [66, 7, 8]
        assert len(set.union(*ids)) == 81

    @pytest.mark.slow
    def test_histories_of_other_tasks_are_left_alone(self, tmp_path):
        from icrl_agents import HistoryStore, collect

        ids = np.arange(9)
        collect(ID, "posterior", tmp_path / "h.h5", tasks=ids, streams=2, episodes=4, seed=0)
        train_ids = split_tasks(ID).train.ids
        with HistoryStore(tmp_path / "h.h5") as store:
            windows = StoreWindows(store, train_ids, WindowSpec(12, 16, 0))
            assert len(windows.histories) == len(train_ids)
            batch = windows.batch(3)
            assert batch.reward.shape == (16, 12)
            assert np.array_equal(batch.obs, windows.batch(3).obs)
            assert (
                StoreWindows(store, train_ids, WindowSpec(99, 16, 0)).batch(0).mask.sum(1).tolist() == [24] * 16
            )  # 4 episodes
            with pytest.raises(ValueError, match="none of the 1 training tasks"):
                StoreWindows(store, [77], WindowSpec(12, 16, 0))
        options = {"settings": RECORDED, "device": "cpu", "quiet": True}
        agent = train("ad", ID, tmp_path / "run", histories=tmp_path / "h.h5", **options)
        assert (agent.facts["source"], agent.facts["data"]["histories"]) == ("posterior", "h.h5")
        assert "--split all" in agent.facts["collect"]
        collect(ID, "posterior", tmp_path / "t.h5", streams=2, episodes=4, seed=0)
        agent = train("ad", ID, tmp_path / "2", histories=tmp_path / "t.h5", **options)
        assert agent.facts["collect"] in (tmp_path / "2" / "README.md").read_text()


class TestMistakes:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"learning_rate": 1e-3}, "unknown setting 'learning_rate'"),
            ({"updats": 3}, "did you mean 'updates'"),
            ({"split_seed": -1}, "split_seed=-1 is outside"),
            ({"updates": 0}, "updates=0 is outside 1"),
            ({"lr": "fast"}, "lr='fast' is not a float"),
            ({"precision": "int8"}, "precision='int8', choose from"),
            ({"source": "posteriors"}, "unknown source 'posteriors': did you mean 'posterior'"),
            ({"source.sharpnes": 3.0}, "did you mean 'sharpness'"),
            ({"steps": "40"}, "steps='40': give pairs 'share:steps' in order"),
            ({"steps": "0.1:40"}, "give pairs 'share:steps' in order"),
            ({"heads": 3}, "width=8 must be an even multiple of heads=3"),
        ],
    )
    def test_bad_settings(self, tmp_path, settings, message):
        with pytest.raises(ValueError, match=message):
            run(tmp_path / "run", **settings)
        assert not (tmp_path / "run" / "model.safetensors").exists()

    def test_unknown_method_and_env(self, tmp_path):
        with pytest.raises(ValueError, match="unknown method 'adx': did you mean 'ad'"):
            train("adx", ID, tmp_path / "run")
        with pytest.raises(ValueError, match="did you mean 'icrl/Darkroom-v0'"):
            train("ad", "icrl/Darkrom-v0", tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_existing_folders(self, tmp_path):
        out = tmp_path / "run"
        run(out, updates=1)
        before = weights(out)
        with pytest.raises(FileExistsError, match="--resume to continue it or --overwrite"):
            run(out, updates=1, seed=3)
        assert same(before, weights(out))
        train("ad", ID, out, settings={**FAST, "updates": 1, "seed": 3}, device="cpu", quiet=True, overwrite=True)
        assert not same(before, weights(out))
        foreign = tmp_path / "thesis"
        foreign.mkdir()
        (foreign / "thesis.tex").write_text("years of work")
        with pytest.raises(FileExistsError, match="not a training run"):
            train("ad", ID, foreign, settings=FAST, overwrite=True)
        assert (foreign / "thesis.tex").exists()

    def test_resume(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no run to resume"):
            train("ad", ID, tmp_path / "none", settings=FAST, resume=True)
        run(tmp_path / "run", updates=1)
        with pytest.raises(ValueError, match=r"lr=0.5, but .* was started with 0.002"):
            train("ad", ID, tmp_path / "run", settings={"lr": 0.5}, resume=True)

    def test_foreign_notes(self, tmp_path):
        (tmp_path / "train.json").write_text("{}")
        with pytest.raises(ValueError, match="not of a training run"):
            train("ad", ID, tmp_path, settings=FAST, resume=True)

    def test_histories_and_a_source(self, tmp_path):
        with pytest.raises(ValueError, match="leave one of them out"):
            train("ad", ID, tmp_path / "run", histories="h.h5", settings={**FAST, "source": "ppo"})

    @pytest.mark.parametrize("changes", [{"threshold": 0.9}, {"min_length": 3}])
    def test_marks_of_another_meaning_are_no_beginning(self, tmp_path, changes):
        settings = {**FAST, "source": "q-learning", "min_length": 2, "updates": 1}
        train("marked-ad", ID, tmp_path / "1", settings=settings, device="cpu", quiet=True)
        settings |= {"init": str(tmp_path / "1"), **changes}
        with pytest.raises(ValueError, match=f"has {next(iter(changes))}="):
            train("marked-ad", ID, tmp_path / "2", settings=settings, device="cpu", quiet=True)

    @pytest.mark.parametrize(
        ("method", "one", "other"),
        [
            ("cad", {"gate": "gated"}, {"gate": "hard"}),
            ("lam", {"hierarchy": 2}, {"hierarchy": 3}),
            ("lam", {"bounded": False}, {"bounded": True}),
            ("lam", {"quantizer": "fsq", "codes": 16}, {"quantizer": "fsq", "codes": 64}),
            ("lam", {"quantizer": "none", "latent": 2}, {"quantizer": "fsq", "latent": 2}),
            ("la-bc", {"codes": 16, "levels": 1}, {"codes": 4, "levels": 2}),
        ],
    )
    def test_weights_of_another_meaning_are_no_beginning(self, method, one, other):
        """Their shapes are the same."""
        model, spaces = MODELS[method], SPACES["grid"] if method == "cad" else IMAGES["rows-first"]
        first, second = (model(*spaces, model.Config(**given)) for given in (one, other))
        names = [name for name in model.Config.MEANINGS if name in one and one[name] != other[name]]
        assert names
        for changed in names:
            words = f"{changed}={one[changed]!r}, not {other[changed]!r}"
            one_line(lambda: init_from(second, first, "a"), ValueError, words)

    def test_what_has_no_effect_has_no_meaning(self):
        model, spaces = MODELS["lam"], IMAGES["rows-first"]
        first, second = (model(*spaces, model.Config(levels=levels)) for levels in (2, 3))
        init_from(second, first, "a")

    @pytest.mark.parametrize(("method", "name"), [("prompted-dt", "prompt"), ("ad", "window"), ("dt", "window")])
    def test_room_for_more_steps_is_no_other_meaning(self, method, name):
        model = MODELS[method]
        first, second = (model(*SPACES["grid"], model.Config(**{name: steps})) for steps in (240, 300))
        init_from(second, first, "a")
        assert same(first.state_dict(), second.state_dict())

    def test_divergence_is_named(self, tmp_path, monkeypatch):
        from icrl_agents.methods import AD

        monkeypatch.setattr(AD, "loss", lambda self, steps: {"action": self.body.norm.weight.sum() * float("nan")})
        with pytest.raises(ValueError, match="the loss became nan at update 1: lower lr"):
            run(tmp_path / "run")


def test_fresh_lifetimes_may_be_lived_in_a_variant_of_the_environment(tmp_path, monkeypatch):
    env_id, made = "icrl/Darkroom-v0", []
    monkeypatch.setattr(
        "icrl_agents.training.data.FreshWindows", lambda *args: made.append(FreshWindows(*args)) or made[-1]
    )
    settings = {**TINY, "batch_size": 16, "updates": 1, "eval_every": 0, "variant": "icrl/DarkroomRandomStart-v0"}
    agent = train("ad", env_id, tmp_path / "a", settings=settings, quiet=True)
    starts = made[0].batch(0).obs[:, 0]
    assert len(np.unique(starts, axis=0)) > 5
    assert agent.facts["env_id"] == env_id
    assert agent.facts["train"]["variant"] == "icrl/DarkroomRandomStart-v0"
    assert set(made[0].tasks) <= set(FAMILIES[env_id].split()[0].ids)
    for variant, why in [
        ("icrl/DarkroomPermuted-v0", "has other tasks than"),
        ("icrl/PixelGrid-v0", "has other spaces than"),
        ("icrl/Darkroom9-v0", "unknown environment id"),
    ]:
        with pytest.raises(ValueError, match=why):
            train("ad", env_id, tmp_path / "b", settings={**settings, "variant": variant}, quiet=True)
    with pytest.raises(ValueError, match="is for fresh lifetimes"):
        train("ad", env_id, tmp_path / "b", settings={**settings, "source": "ppo"}, quiet=True)
    assert not (tmp_path / "b").exists()


def backward_only(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
    """A compiler of the forward pass that has none for the backward one, which is compiled when it runs."""

    def fail(*_: Any) -> Any:
        raise CppCompileError(["g++"], "error: ptxas failed\nsomewhere")

    return aot_autograd(fw_compiler=lambda traced, _: make_boxed_func(traced.forward), bw_compiler=fail)(graph, inputs)


def nowhere(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
    """A compiler that fails."""
    raise RuntimeError("ptxas failed\nsomewhere")


@pytest.mark.slow
@pytest.mark.parametrize("backend", [nowhere, backward_only])
def test_a_compiler_that_fails_is_one_line(backend, tmp_path, monkeypatch):
    monkeypatch.setattr(compiled, "BACKEND", backend)
    settings = {**FAST, "updates": 1, "compile": True}
    one_line(
        lambda: train("ad", ID, tmp_path / "run", settings=settings, device="cpu", quiet=True),
        ValueError,
        "compile=true failed",
        "ptxas failed",
        "leave it out",
    )


def test_other_errors_of_a_compiled_training_keep_their_type(tmp_path, monkeypatch):
    monkeypatch.setattr(compiled, "BACKEND", "eager")
    monkeypatch.setattr(AD, "loss", lambda *_: torch.zeros(2) + torch.zeros(3))
    with pytest.raises(RuntimeError, match="must match the size"):
        train("ad", ID, tmp_path / "run", settings={**FAST, "updates": 1, "compile": True}, device="cpu", quiet=True)
