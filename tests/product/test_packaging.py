"""What users install: lazy imports, and a wheel that works alone, with its agents, without a network."""

import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

HEAVY = ("torch", "h5py", "stable_baselines3", "accelerate", "matplotlib", "scipy", "huggingface_hub")


def run(*command, **options):
    found = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


@pytest.mark.slow
def test_imports_are_lazy():
    code = f"import sys, icrl_agents, icrl_agents.cli.app; print([m for m in {HEAVY} if m in sys.modules])"
    assert run(sys.executable, "-c", code, cwd=ROOT).strip() == "[]"


@pytest.mark.slow
def test_environments_know_nothing_of_agents():
    code = "import sys, icrl_envs; print('torch' in sys.modules, 'icrl_agents' in sys.modules)"
    assert run(sys.executable, "-c", code, cwd=ROOT).strip() == "False False"


def test_only_codecs_and_envs_ask_for_a_space():
    asking = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "icrl_agents").rglob("*.py")
        if "nn/codecs/" not in path.as_posix()
        and path.name != "spaces.py"  # which writes them as JSON
        and "isinstance(" in (text := path.read_text())
        and "spaces." in text
        and any("isinstance(" in line and "spaces." in line for line in text.splitlines())
    ]
    assert asking == []


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel and the sdist, built with the packages that are installed here (no network)."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT)
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


@pytest.mark.slow
def test_the_wheel_carries_everything(built):
    wheel, sdist = built
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names if not name.startswith("icrl_agents-")} == {"icrl_agents", "icrl_envs"}
    for wanted in ("icrl_agents/py.typed", "icrl_envs/py.typed", "icrl_agents/hub/card_template.md"):
        assert wanted in names
    for card in (ROOT / "model_cards").iterdir():
        for file in card.iterdir():
            assert f"icrl_agents/model_cards/{card.name}/{file.name}" in names
    for recipe in (ROOT / "recipes").iterdir():
        assert f"icrl_agents/recipes/{recipe.name}" in names
    with tarfile.open(sdist) as archive:
        packed = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    tests = {"tests/conftest.py", "tests/product/test_packaging.py"}
    assert {"pyproject.toml", "README.md", "LICENSE", "envs/icrl_envs/__init__.py", *tests} <= packed


@pytest.mark.slow
def test_an_editable_installation_is_not_shadowed(tmp_path):
    """It holds nothing but pointers into the checkout: a copied folder icrl_agents would win over them."""
    build = f"import hatchling.build; print(hatchling.build.build_editable({str(tmp_path)!r}))"
    wheel = tmp_path / run(sys.executable, "-c", build, cwd=ROOT).split()[-1]
    names = zipfile.ZipFile(wheel).namelist()
    assert [name for name in names if name.startswith(("icrl_agents/", "icrl_envs/"))] == []
    assert any(name.endswith(".pth") for name in names)


NO_NETWORK = """
import socket
def refuse(*args, **kwargs):
    raise OSError("no network in this test")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
"""

PLAY = """
import gymnasium, icrl_agents, icrl_envs, sys
from icrl_agents import ICAgent, list_pretrained
assert icrl_agents.__file__.startswith(sys.prefix) and icrl_envs.__file__.startswith(sys.prefix), icrl_agents.__file__
for name in list_pretrained():
    agent = ICAgent.from_pretrained(name)
    assert agent.source == "bundled"
    env = gymnasium.make(agent.facts["env_id"])
    obs, info = env.reset(seed=0)
    agent.reset(env, seed=0)
    agent.observe(*env.step(agent.act(obs)))
    print(name)
"""


@pytest.mark.slow
def test_the_wheel_works_in_a_clean_environment(built, tmp_path):
    """Its own virtual environment, where only the dependencies come from this one."""
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, built[0])
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")  # after the wheel on sys.path
    (site / "sitecustomize.py").write_text(NO_NETWORK)
    played = run(python, "-c", PLAY, cwd=tmp_path).split()
    assert "icrl/ad-darkroom" in played
    shown = run(python, "-m", "icrl_agents.cli", "play", "icrl/ad-darkroom", "--episodes", "2", cwd=tmp_path)
    assert "episode" in shown.lower()
