"""A training folder has one owner, says what lies in it, and is continued from where any signal stopped it."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import h5py
import pytest
from safetensors.torch import load_file

from icrl_agents import ICAgent, collect, evaluate, train
from icrl_agents.agents.pretrained import upload
from icrl_agents.core.files.folder_lock import FolderLock
from icrl_agents.histories.store import HistoryStore
from icrl_agents.methods import METHODS
from tests.cli.test_cli import call, done, refused
from tests.conftest import one_line
from tests.training.test_training import FAST, ID, same

SETTINGS = {**FAST, "updates": 6, "dropout": 0.1, "checkpoint_every": 4}
LATIN = os.fsdecode(b"caf\xfc")  # a name of an old disk


def learn(out: Path, **more):
    return train("ad", ID, out, device="cpu", quiet=True, **{"settings": SETTINGS, **more})


def at_update(monkeypatch, number: int, act) -> None:
    """Call `act` in the middle of an update, which counts from 1."""
    calls, loss = [], METHODS["ad"].loss

    def acting(agent, steps):
        calls.append(1)
        if len(calls) == number:
            act()
        return loss(agent, steps)

    monkeypatch.setattr(METHODS["ad"], "loss", acting)


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    learn(out)
    return out


@pytest.fixture
def stopped(tmp_path, monkeypatch) -> Path:
    """A run that Ctrl-C stopped in its third update."""
    with monkeypatch.context() as patch:
        at_update(patch, 3, lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            learn(tmp_path / "run")
    return tmp_path / "run"


# ---- owners -------------------------------------------------------------------------------------------------------


def test_a_running_training_is_not_disturbed(tmp_path, monkeypatch, whole):
    out, told = tmp_path / "run", []

    def rivals():
        for how in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(BlockingIOError) as caught:
                learn(out, **how)
            told.append(str(caught.value))

    at_update(monkeypatch, 3, rivals)
    learn(out)
    assert told == [f"process {os.getpid()} is training in {out}: wait, or choose another path"] * 3
    assert same(load_file(out / "model.safetensors"), load_file(whole / "model.safetensors"))
    assert losses(out) == losses(whole)
    assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def _contend(folder, start, ended, results):
    start.wait()
    try:
        with FolderLock(folder, "training in"):
            results.put("owner")
            ended.wait()
    except BlockingIOError as error:
        results.put(str(error))


def test_of_many_that_start_at_once_one_owns_the_folder(tmp_path):
    context = multiprocessing.get_context("fork")
    start, ended, results = context.Event(), context.Event(), context.Queue()
    rivals = [context.Process(target=_contend, args=(tmp_path / "new", start, ended, results)) for _ in range(6)]
    for rival in rivals:
        rival.start()
    start.set()
    said = [results.get(timeout=60) for _ in rivals]
    ended.set()
    for rival in rivals:
        rival.join()
    assert said.count("owner") == 1
    (line,) = {text for text in said if text != "owner"}
    assert line.split()[1] in {str(rival.pid) for rival in rivals}
    # a rival that created the folder and then lost may leave it, empty: the owner found it there
    assert not (tmp_path / "new").exists() or not list((tmp_path / "new").iterdir())


def test_what_a_killed_owner_leaves_is_no_content(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / ".owner").write_text("99999999")
    learn(tmp_path)
    assert ICAgent.from_pretrained(tmp_path).facts["env_id"] == ID
    assert not (tmp_path / ".owner").exists()


def test_a_start_that_is_refused_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="lr="):
        learn(tmp_path / "a" / "b", settings={"lr": "fast"})
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    one_line(lambda: learn(tmp_path / "file"), NotADirectoryError, "is a file: name a folder")


def test_the_card_keeps_the_runs_own_command(tmp_path, monkeypatch):
    out = tmp_path / "run"

    def rewrite():
        note = json.loads((out / "train.json").read_text())
        (out / "train.json").write_text(json.dumps({**note, "command": "another"}))

    at_update(monkeypatch, 2, rewrite)
    assert learn(out).facts["command"] == "icrl_agents.train(...)"


# ---- signals ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_state_and_the_result_is_the_same(tmp_path, monkeypatch, whole, number):
    out, kind = tmp_path / "run", {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: SystemExit}[number]
    before = signal.getsignal(number)
    for update, done_then in ((3, 3), (2, 5), (1, 6)):  # of what is left each time; the last one is whole
        with monkeypatch.context() as patch:
            at_update(patch, update, lambda: signal.raise_signal(number))
            with pytest.raises(kind, match=f"--resume continues at update {done_then}$") as caught:
                learn(out, resume=out.exists())
        assert getattr(caught.value, "code", None) == 128 + number
        assert signal.getsignal(number) is before
    learn(out, resume=True)
    assert same(load_file(out / "model.safetensors"), load_file(whole / "model.safetensors"))
    assert losses(out) == losses(whole)
    assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}


def test_a_second_signal_leaves_at_once(tmp_path, monkeypatch):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it went on")

    at_update(monkeypatch, 6, twice)
    with pytest.raises(KeyboardInterrupt, match="interrupted; --resume continues at update 4"):
        learn(tmp_path / "run")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["000000004"]


def test_a_callers_own_handler_stays(tmp_path, monkeypatch):
    came = []
    before = signal.signal(signal.SIGTERM, lambda *what: came.append(what[0]))
    try:
        at_update(monkeypatch, 2, lambda: signal.raise_signal(signal.SIGTERM))
        learn(tmp_path / "run")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert came == [signal.SIGTERM]


# ---- what lies there ----------------------------------------------------------------------------------------------


def test_an_unfinished_run_says_so_and_its_states_are_agents(stopped):
    for load in (ICAgent.from_pretrained, lambda folder: upload(folder, "org/name", token="hf_x")):
        one_line(lambda: load(stopped), FileNotFoundError, "is not finished: icrl-agents train ad --env", "--resume")  # noqa: B023
    state = stopped / "checkpoints" / "000000003"
    assert str(state) in refused("evaluate", stopped)
    agent = ICAgent.from_pretrained(state)
    assert (agent.facts["env_id"], agent.facts["limits"]) == (ID, ["It was saved at update 3 of 6."])
    assert evaluate(agent, ID, episodes=1, num_seeds=1).split == "test"
    assert "saved at update 3 of 6" in (state / "README.md").read_text()
    assert "limits" not in learn(stopped, resume=True).facts


def test_a_finished_run_is_not_trained_again(tmp_path, whole):
    out = shutil.copytree(whole, tmp_path / "run")
    words = ("train", "ad", "--env", ID, "-o", out, "--resume")
    assert f"{out}: was finished already" in done(*words)
    assert f"go on with its agent in another folder, --init {out}" in refused(*words, "--updates", 9)
    (out / "checkpoints" / "000000004.tmp").mkdir(parents=True)  # killed while the states were deleted
    assert "was finished already" in done(*words)
    assert not (out / "checkpoints").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_state_is_named(stopped, name):
    damaged = stopped / "checkpoints" / "000000003"
    (damaged / name).write_bytes(b"{")
    with pytest.raises(ValueError, match="000000003") as caught:
        learn(stopped, resume=True)
    assert "\n" not in str(caught.value)
    shutil.rmtree(damaged)
    learn(stopped, resume=True)


def test_a_note_that_is_no_json_is_not_a_damaged_checkpoint(stopped):
    (stopped / "train.json").write_text("{")
    with pytest.raises(ValueError, match=r"the run cannot be resumed, --overwrite starts it over$"):
        learn(stopped, resume=True)


# ---- names that are not UTF-8 -------------------------------------------------------------------------------------


def test_names_that_cannot_be_written_down_are_refused_at_the_start(tmp_path, monkeypatch):
    for how in ({"out": tmp_path / LATIN}, {"histories": LATIN}):
        one_line(lambda: learn(**{"out": tmp_path / "run", **how}), ValueError, "has bytes that are not utf-8: rename")  # noqa: B023
    with pytest.raises(ValueError, match="has bytes that are not utf-8"):
        learn(tmp_path / "run", settings={**SETTINGS, "init": LATIN})
    one_line(lambda: ICAgent.from_pretrained(tmp_path / LATIN), ValueError, "has bytes that are not utf-8")
    assert not list(tmp_path.iterdir())
    for words in (("play", LATIN), ("evaluate", LATIN), ("collect", "--env", ID, "--source", "noise", "-o", LATIN)):
        assert "has bytes that are not utf-8: rename it in UTF-8" in refused(*words)
    (tmp_path / LATIN).mkdir()
    monkeypatch.chdir(tmp_path / LATIN)  # which nothing has to write down
    learn(Path("run"))
    learn(Path("run"), resume=True)


def test_a_run_that_cannot_be_noted_does_not_replace_another(tmp_path, monkeypatch):
    learn(tmp_path / "run")
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    monkeypatch.setattr("sys.argv", ["icrl-agents", "train", "\udcfc"])
    with pytest.raises(ValueError, match="cannot write"):
        learn(tmp_path / "run", overwrite=True)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before


def test_commands_that_cannot_be_resumed_do_not_speak_of_it(monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("icrl_agents.ICAgent.from_pretrained", stop)
    for command in ("play", "evaluate"):
        result = call(command, "icrl/ad-darkroom")
        assert (result.exit_code, result.stderr) == (130, "interrupted\n")


def test_a_stopped_training_is_one_line(tmp_path, monkeypatch):
    words = [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}")]
    for number, word in ((signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")):
        with monkeypatch.context() as patch:
            at_update(patch, 2, lambda: signal.raise_signal(number))  # noqa: B023
            result = call("train", "ad", "--env", ID, "-o", tmp_path / word, *words, "--device", "cpu")
        assert result.exit_code == 128 + number
        assert result.stderr.splitlines()[-1] == f"{word}; --resume continues at update 2"


# ---- histories that changed ---------------------------------------------------------------------------------------


@pytest.fixture
def stopped_on(tmp_path, monkeypatch):
    """A function that starts a run on histories, which Ctrl-C stops in its third update, and gives how to go on."""

    def start(method: str, **given):
        options = {"device": "cpu", "quiet": True, "histories": tmp_path / "h.h5"}
        settings = {"updates": 6, "batch_size": 4, "eval_every": 0, "width": 8, **given}
        with monkeypatch.context() as patch:
            calls, loss = [], METHODS[method].loss
            stop = lambda: len(calls) == 3 and signal.raise_signal(signal.SIGINT)  # noqa: E731
            patch.setattr(METHODS[method], "loss", lambda *a: (calls.append(1), stop(), loss(*a))[-1])
            with pytest.raises(KeyboardInterrupt):
                train(method, ID, tmp_path / "run", settings=settings, **options)
        return lambda: train(method, ID, tmp_path / "run", resume=True, **options)

    return start


def record(path: Path, **how) -> Path:
    return collect(ID, "noise", path, **{"streams": 1, "episodes": 2, "overwrite": True, **how})


@pytest.mark.parametrize("other", [{"seed": 1}, {"episodes": 3}, {"settings": {"start": 0.5}}, {"tasks": range(4)}])
def test_a_run_is_not_continued_on_histories_that_took_the_place_of_its_own(tmp_path, stopped_on, other):
    record(tmp_path / "h.h5")
    resume = stopped_on("bc")
    record(tmp_path / "h.h5", **other)
    one_line(resume, ValueError, "h.h5 changed", "run", "start another run")
    record(tmp_path / "h.h5")  # the same histories again
    assert resume().facts["data"]["histories"] == "h.h5"


def test_values_tell_histories_apart_and_later_columns_do_not(tmp_path, stopped_on):
    record(tmp_path / "h.h5")
    resume = stopped_on("bc")
    with HistoryStore(tmp_path / "h.h5") as store:
        store.annotate("later", lambda steps: steps.reward)
    shutil.copy(tmp_path / "h.h5", tmp_path / "kept.h5")
    with h5py.File(tmp_path / "h.h5", "r+") as file:  # as another import of the same episodes
        file[min(file, key=int)]["reward"][0, 3] += 1
    one_line(resume, ValueError, "h.h5 changed")
    shutil.move(tmp_path / "kept.h5", tmp_path / "h.h5")
    resume()


def test_known_steps_are_told_apart_too(tmp_path, stopped_on):
    for name in ("h.h5", "known.h5"):
        record(tmp_path / name, seed=len(name))
    resume = stopped_on("bc", labels=5, labelled=str(tmp_path / "known.h5"))
    record(tmp_path / "known.h5", seed=9)
    one_line(resume, ValueError, "known.h5 changed")


def test_a_run_of_an_earlier_version_is_continued(tmp_path, stopped_on):
    record(tmp_path / "h.h5")
    resume = stopped_on("bc")
    note = json.loads((tmp_path / "run" / "train.json").read_text())
    assert len(note.pop("contents")) == 64
    (tmp_path / "run" / "train.json").write_text(json.dumps(note))
    resume()


@pytest.mark.parametrize("name", ["init", "source.expert"])
def test_agents_of_the_settings_are_found_from_other_folders(tmp_path, monkeypatch, whole, name):
    settings = {**SETTINGS, "checkpoint_every": 0, name: "teacher"}
    settings |= {"source": "noise"} if name == "source.expert" else {}
    shutil.copytree(whole, tmp_path / "teacher")
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        at_update(patch, 2, lambda: 1 / 0)  # before there is a checkpoint
        with pytest.raises(ZeroDivisionError):
            learn(tmp_path / "run", settings=settings)
    learn(tmp_path / "other", settings=settings)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    learn(tmp_path / "run", settings={}, resume=True)
    learn(tmp_path / "run", settings={name: "../teacher"}, resume=True)  # the same one
    assert same(load_file(tmp_path / "run/model.safetensors"), load_file(tmp_path / "other/model.safetensors"))
    for shown in ("config.json", "README.md"):  # they are uploaded
        assert str(tmp_path) not in (tmp_path / "other" / shown).read_text()


def test_what_a_killed_start_leaves_is_not_in_the_way(tmp_path, monkeypatch):
    pid = os.fork()
    if not pid:  # killed before `train.json` has its name
        Path.replace = lambda path, target: os._exit(9)
        learn(tmp_path / "run")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    assert any((tmp_path / "run").iterdir())
    learn(tmp_path / "run")
    names = {"README.md", "config.json", "metrics.jsonl", "model.safetensors", "train.json"}
    assert {path.name for path in (tmp_path / "run").iterdir()} - {"tensorboard"} == names
