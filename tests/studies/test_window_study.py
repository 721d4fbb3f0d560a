"""AD against CAD by windows: who takes part, with how many weights, and that a study ends in a table and a figure."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from icrl_agents import METHODS, ICAgent
from icrl_agents.core.families import env_spaces
from icrl_agents.evaluation.protocol import EvalSpec
from icrl_agents.studies.windows.designs import LATENTS, WINDOWS, make_plan
from icrl_agents.studies.windows.study import JSON, PICTURE, RUNS, TASKS, study_windows
from tests.cli.test_cli import done, refused
from tests.conftest import one_line
from tests.evaluation.test_plots import without_matplotlib
from tests.training.test_training import ID

TINY = {"width": 16, "layers": 1, "heads": 2, "inner": 16, "updates": 2, "batch_size": 4, "compressor_heads": 2}
SETS = [word for name, value in TINY.items() for word in ("--set", f"{name}={value}")]
COMMAND = ("windows", "--env", ID, "--windows", "12,24", "--latents", 4, "--episodes", 12, *SETS)
NAMES = ["ad-window12", "ad-window24", "cad-window12-latents4", "cad-window24-latents4"]


def run(out, windows=(12, 24), **changes):
    spec = {"episodes": 12, "num_seeds": RUNS, "tasks": TASKS}
    spec |= {name: changes.pop(name) for name in list(changes) if name in spec}
    return study_windows(make_plan(ID, windows, (4,), TINY), out, spec=EvalSpec(**spec), **changes)


# ---- who takes part ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plan():
    return make_plan("icrl/Darkroom17x17-v0")


def test_latents_leave_half_of_the_window_to_steps(plan):
    pairs = [(design.window, design.latents) for design in plan.designs]
    assert pairs[: len(WINDOWS)] == [(window, 0) for window in WINDOWS]
    assert sorted(pairs[len(WINDOWS) :] + plan.left_out) == [(window, count) for window in WINDOWS for count in LATENTS]
    assert plan.left_out == [(30, 16), (30, 32), (60, 32)]


def test_parameters_are_equal(plan):
    for design in plan.designs:
        (rival,) = (other for other in plan.designs if other.method == "ad" and other.window == design.window)
        assert abs(design.parameters / rival.parameters - 1) < 0.03
        assert rival.config.inner > design.config.inner or design is rival
    alone = make_plan(ID, (12, 24), (8,), TINY).designs  # no latents fit the shorter window
    assert [design.name for design in alone] == ["ad-window12", "ad-window24", "cad-window24-latents8"]
    assert abs(alone[0].parameters / alone[2].parameters - 1) < 0.03


def test_as_many_steps_are_learned_from_in_an_update(plan):
    for design in plan.designs:
        if design.latents:
            assert design.batch_size == 32
            agent = ICAgent(METHODS["cad"](*env_spaces(plan.env_id), design.config))
            lengths = [agent.method.schedule.end(folds) for folds in range(1, design.config.folds + 1)]
            assert design.config.learned == np.mean(
                [length - agent.method.schedule.since(length, agent.config.folds_with_gradient) for length in lengths]
            )
            continue
        rivals = [other for other in plan.designs if other.latents and other.window == design.window]
        learned = np.mean([rival.config.learned for rival in rivals]) * 32
        assert design.batch_size * design.window == pytest.approx(learned, rel=0.02)


def test_lifetimes_are_long_and_a_training_window_covers_them(plan):
    steps = plan.settings["episodes"] * 50
    assert steps >= 4 * max(WINDOWS)
    for design in plan.designs:
        assert design.method == "ad" or design.config.span >= steps
        visible = design.window - design.latents
        assert design.config.slide == (design.window // 3 if design.method == "ad" else visible // 2)


def test_few_steps_may_be_kept_and_ad_may_see_whole_lifetimes():
    plan = make_plan(ID, (12, 24), (4,), {**TINY, "episodes": 10}, kept=2, whole=True)
    assert [design.name for design in plan.designs] == ["ad-window12", "ad-window24", "ad-window60", *NAMES[2:]]
    assert [design.config.slide for design in plan.designs] == [4, 8, 20, 6, 18]  # AD drops a third
    for design in plan.designs[3:]:
        schedule = ICAgent(METHODS["cad"](*env_spaces(ID), design.config)).method.schedule
        assert schedule.end(0) - schedule.span(0)[1] == 2
    learned = np.mean([design.config.learned for design in plan.designs[3:]])
    assert plan.designs[2].batch_size == round(4 * learned / 60) > 1  # as many steps with a loss as those with latents
    assert abs(plan.designs[2].parameters / plan.designs[3].parameters - 1) < 0.03


def test_settings_reach_whom_they_are_for():
    plan = make_plan(ID, (12,), (4,), {**TINY, "dynamics": True, "gate": "replace", "source.slips": 0.5, "lr": 0.001})
    ad, cad = plan.designs
    assert (ad.config.dynamics, ad.config.width, cad.config.gate, cad.config.inner) == (True, 16, "replace", 16)
    assert cad.config.slide == 4
    assert {"lr": 0.001, "source.slips": 0.5, "updates": 2, "eval_every": 0}.items() <= plan.settings.items()
    assert not {"width", "gate"} & set(plan.settings)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"env_id": "icrl/Darkrom3x3-v0"}, (ID,)),
        ({"windows": ()}, ("windows=[]", "at least one")),
        ({"windows": (12, 1)}, ("window=1", "2..")),
        ({"latents": (0,)}, ("latents=0", "1..")),
        ({"latents": (9, 12)}, ("latents=[9, 12]", "half", "[12]")),
        ({"settings": {"slide": 3}}, ("slide", "windows")),
        ({"settings": {"folds": 3, "seed": 1}}, ("folds and seed",)),
        ({"settings": {"widht": 3}}, ("widht", "width")),
        ({"settings": {"pretrain": 1.0}}, ("pretrain=1", "no actions")),
        ({"kept": 8}, ("kept=8", "window=12 with 4 latents shows 8 steps", "at most 7")),
        ({"kept": 0}, ("kept=0", "1..")),
        (
            {"settings": {"episodes": 500}},
            ("window=12 with 4 latents", "3000 steps 747 times", "at most 100", "episodes"),
        ),
        ({"settings": {"episodes": 2}}, ("episodes=2", "window=12", "episodes=3")),
    ],
)
def test_mistakes_in_the_plan(changes, words):
    given = {"env_id": ID, "windows": (12,), "latents": (4,), **changes}
    one_line(lambda: make_plan(**given), ValueError, *words)


@pytest.mark.slow
def test_studies_of_another_set_go_on(tmp_path):
    settings = {**TINY, "task_set": "test_train", "episodes": 2, "updates": 1}
    for _ in range(2):  # the second time nothing is left to do
        plan = make_plan("icrl/DarkroomMacro-v0", (20,), (2,), settings)
        found = study_windows(plan, tmp_path, spec=EvalSpec(episodes=2, num_seeds=1, tasks=TASKS), last=1)
    assert len(found[0].curve.tasks) == 13  # of 75 actions, as in training
    assert [one.last for one in found] == [one.curve.at(2, 2) for one in found]
    assert found[1].gain == found[1].curve.gain(found[0].curve, 2, 2)
    assert json.loads((tmp_path / JSON).read_text())["last"] == [2, 2]


# ---- what is made -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    said = done(*COMMAND, "-o", folder)
    assert all(word in said for word in ("ad", "cad, 4 latents", "episodes 3-12", "more than ad", JSON, PICTURE))
    return folder


@pytest.mark.slow
def test_the_result_tells_all(out):
    found = json.loads((out / JSON).read_text())
    assert (found["env_id"], found["split"], found["episodes"], found["last"]) == (ID, "test", 12, [3, 12])
    assert (found["seeds"], found["seed"], len(found["tasks"]), found["left_out"]) == ([0], 0, 1, [])
    assert found["settings"]["updates"] == 2
    assert "torch" in found["versions"]
    assert [cell["name"] for cell in found["cells"]] == NAMES
    for cell in found["cells"]:
        agent = ICAgent.from_pretrained(out / f"{cell['name']}-seed0")
        assert cell["parameters"] == sum(parameter.numel() for parameter in agent.parameters())
        assert cell["config"] == asdict(agent.config)
        assert cell["last"]["low"] <= cell["last"]["value"] <= cell["last"]["high"] <= cell["optimal"]
        assert cell["whole"]["value"] <= cell["optimal"]
        assert cell["random"] < cell["optimal"]
    (short, _, folded, _) = found["cells"]
    assert short["gain"] is None
    assert folded["gain"]["value"] == pytest.approx(folded["last"]["value"] - short["last"]["value"])
    assert (out / PICTURE).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_it_continues(out, tmp_path, monkeypatch):
    trained = []

    def stop(method, env_id, folder, **options):
        if trained:
            raise KeyboardInterrupt
        trained.append(folder.name)
        return train(method, env_id, folder, **options)

    from icrl_agents.training.loop import train

    monkeypatch.setattr("icrl_agents.training.loop.train", stop)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert trained == ["ad-window12-seed0"]
    assert not (tmp_path / JSON).exists()
    began = (tmp_path / "ad-window12-seed0" / "model.safetensors").stat().st_mtime_ns
    monkeypatch.undo()
    counts = []
    run(tmp_path, on_done=counts.append)
    assert counts == [1, 2, 3, 4]
    assert (tmp_path / "ad-window12-seed0" / "model.safetensors").stat().st_mtime_ns == began
    whole, continued = (json.loads((folder / JSON).read_text()) for folder in (out, tmp_path))
    for cell in (*whole["cells"], *continued["cells"]):
        del cell["seconds"]
    assert continued == whole


@pytest.mark.slow
def test_seeds_are_joined(tmp_path):
    found = run(tmp_path, windows=(12,), seeds=(0, 3), num_seeds=2)
    assert [measured.curve.runs.shape for measured in found] == [(4, 1, 12)] * 2
    assert (tmp_path / "cad-window12-latents4-seed3" / "model.safetensors").is_file()
    assert json.loads((tmp_path / JSON).read_text())["seeds"] == [0, 3]


@pytest.mark.slow
def test_mistakes_cost_a_line(out, tmp_path, monkeypatch):
    before = (out / JSON).read_bytes()
    assert "another folder" in refused(*COMMAND, "-o", out, "--set", "lr=0.5")
    assert "another folder" in refused(*COMMAND, "-o", out, "--episodes", 13)
    assert (out / JSON).read_bytes() == before
    new = tmp_path / "new"
    assert "'a,b'" in refused(*COMMAND, "-o", new, "--latents", "a,b")
    assert "jobs=0" in refused(*COMMAND, "-o", new, "--jobs", 0)
    assert "tasks=0" in refused(*COMMAND, "-o", new, "--tasks", 0)
    assert "seeds=[1, 1]" in refused(*COMMAND, "-o", new, "--seeds", "1,1")
    assert "NAME=VALUE" in refused(*COMMAND, "-o", new, "--set", "lr")
    assert "--env" in refused("windows", "-o", new)
    without_matplotlib(monkeypatch)
    assert "icrl-agents[plots]" in refused(*COMMAND, "-o", new)
    assert not new.exists()
