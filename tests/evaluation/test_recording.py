"""Recordings: the chosen episodes, frame by frame, with their captions; whole files or none."""

import contextlib

import gymnasium
import numpy as np
import pytest
from icrl_envs import register_family, unregister_family
from PIL import Image, ImageSequence
from rich.console import Console

from icrl_agents.core.families import find_family
from icrl_agents.evaluation.play import play
from icrl_agents.evaluation.recording import Recording, captioned
from icrl_agents.hub.recordings import read_note
from tests.conftest import one_line
from tests.envs.families import SPRING, registered

ROOM = "icrl/Darkroom3x3-v0"
HORIZON = 6


@pytest.fixture
def agent(tiny_agent):
    made = tiny_agent(find_family(ROOM).observation_space)
    made.facts = {"env_id": ROOM}
    return made


def frames(path) -> list[np.ndarray]:
    with Image.open(path) as image:
        return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]


def record(agent, recording, episodes=4, **options):
    console = Console(record=True, width=100)
    play(agent, ROOM, episodes=episodes, seed=3, console=console, record=recording, **options)
    return console.export_text()


@pytest.mark.slow
def test_a_gif_of_the_first_middle_and_last_episode(agent, tmp_path):
    path = tmp_path / "new" / "a.gif"
    text = record(agent, Recording(path))
    assert "a.gif" in text.replace("\n", "")
    shown = frames(path)
    assert len(shown) == 3 * (HORIZON + 1)
    room = gymnasium.make(ROOM, render_mode="rgb_array")
    room.reset(seed=0)
    height, width, _ = room.render().shape
    assert {frame.shape for frame in shown} == {(5 * height + 24, 5 * width, 3)}  # enlarged below the caption
    with Image.open(path) as image:
        image.seek(HORIZON)
        assert image.info["duration"] > 1000  # an episode's last frame stays


@pytest.mark.slow
def test_frames_are_those_of_the_environment(agent, tmp_path):
    path = tmp_path / "a.gif"
    record(agent, Recording(path, [2]))
    shown = frames(path)
    assert len(shown) == HORIZON + 1
    start = gymnasium.make(ROOM, render_mode="rgb_array", goal=(0, 0))
    start.reset(seed=0)
    blue = np.array(start.render()).reshape(-1, 3)
    agent_colour = next(colour for colour in map(tuple, blue) if colour[2] > 150 > colour[0])
    assert (np.abs(shown[0].astype(int) - agent_colour).max(-1) < 12).any()


@pytest.mark.slow
def test_some_steps_at_a_width_make_a_small_file_with_a_note(agent, tmp_path):
    path = tmp_path / "a.gif"
    record(agent, Recording(path, [1, 4], width=120, every=4), task=0)
    shown = frames(path)
    assert len(shown) == 2 * 3  # steps 0 and 4, and the end
    assert {frame.shape[1] for frame in shown} == {120}
    with Image.open(path) as image:
        assert image.info["duration"] == 330  # four steps at 12 a second
    named = f"{ROOM}, test task 0 (goal=(2, 0)): episodes 1 and 4 of a lifetime of 4"
    assert read_note(path) == named
    record(agent, Recording(path, [2]), task=0)
    assert read_note(path).endswith(": episode 2 of a lifetime of 4")


def test_what_stays_the_same_is_stored_once(tmp_path):
    """Noise that no frame changes: 20 frames of it take little more than one."""
    still = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    sizes = []
    for count in (1, 20):
        recording = Recording(tmp_path / "a.gif", width=64)
        for number in range(count):
            still[0, 0] = number
            recording.draw(Drawing(still.copy()), "", last=number == count - 1)
        sizes.append(recording.save(10).stat().st_size)
    assert sizes[1] < 1.5 * sizes[0]


def test_a_note_is_read_of_gifs_only(tmp_path):
    path = tmp_path / "episodes.gif"
    Image.new("RGB", (8, 8)).save(path)
    assert read_note(path) == ""
    Image.new("RGB", (8, 8)).save(path, comment=("é" * 400).encode())
    assert read_note(path) == "é" * 400
    whole = path.read_bytes()
    for cut in range(6, len(whole), 37):
        path.write_bytes(whole[:cut])
        with contextlib.suppress(ValueError):
            assert read_note(path) in ("", "é" * 400)
    path.write_bytes(b"\x89PNG")
    one_line(lambda: read_note(path), ValueError, "episodes.gif", "no GIF", "--record")


def test_captions_are_drawn():
    blank = np.full((100, 400, 3), 255, np.uint8)
    empty, short, long = (np.asarray(captioned(blank, text)) for text in ("", "step 1", "step 1, return 2"))
    assert (empty == 255).all()
    ink = [(page[:24] < 128).any(-1).sum() for page in (short, long)]
    assert 0 < ink[0] < ink[1]
    assert (long[24:] == 255).all()
    assert np.asarray(captioned(np.zeros((5, 7, 3), np.uint8), "")).shape[1] >= 320
    narrow = np.asarray(captioned(blank, "episode 1 of 5, return 123.456, step 100", 200))
    assert narrow.shape == (50 + 24, 200, 3)
    assert (narrow[:24, -6:] == 255).all()  # smaller letters, all within the frame


@pytest.mark.slow
def test_an_mp4_has_the_same_frames(agent, tmp_path):
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    path = tmp_path / "a.mp4"
    record(agent, Recording(path, [1, 4]), fps=10)
    video = ffmpeg.read_frames(str(path))
    assert next(video)["size"] == (360, 384)
    assert sum(1 for _ in video) == 2 * (HORIZON + 1 + 10)


def test_mistakes_are_found_before_anything_is_played(agent, tmp_path):
    one_line(lambda: Recording(tmp_path / "a.avi"), ValueError, "a.avi", ".mp4")
    one_line(lambda: Recording(tmp_path / "a.gif", [0, 2]), ValueError, "[0, 2]", "from 1")
    one_line(lambda: Recording(tmp_path / "a.gif", width=10), ValueError, "width=10", "64")
    one_line(lambda: Recording(tmp_path / "a.gif", every=0), ValueError, "every=0")
    one_line(lambda: record(agent, Recording(tmp_path / "a.gif", [1, 9])), ValueError, "record episode 9", "4")
    with pytest.raises(RuntimeError, match="no task has begun"):
        agent.act(np.zeros(2, np.int32))


@pytest.mark.filterwarnings("ignore:.*possible render_modes")
def test_an_environment_without_frames(tiny_agent, tmp_path):
    with registered():
        family = find_family(SPRING)
        agent = tiny_agent(family.observation_space, family.action_space)
        recording = Recording(tmp_path / "a.gif")
        one_line(lambda: play(agent, SPRING, episodes=1, record=recording), ValueError, "rgb_array", "ansi")
    assert not (tmp_path / "a.gif").exists()


class Undrawn(gymnasium.Env):
    """Draws nothing, and knows no `render_mode`."""

    observation_space, action_space = gymnasium.spaces.Discrete(2), gymnasium.spaces.Discrete(2)

    def __init__(self, pays: int = 0):
        self.pays = pays

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 0, {}

    def step(self, action):
        return 1, float(action == self.pays), False, False, {}


UNDRAWN = "test/Undrawn-v0"


@pytest.fixture
def undrawn():
    gymnasium.register(UNDRAWN, Undrawn, max_episode_steps=3)
    register_family(UNDRAWN, [{"pays": number} for number in range(8)], lifetime=2, split=(0.5, 0))
    yield find_family(UNDRAWN)
    unregister_family(UNDRAWN)
    gymnasium.registry.pop(UNDRAWN)


def test_a_class_without_render_mode_is_played_and_not_recorded(undrawn, tiny_agent, tmp_path):
    agent = tiny_agent(undrawn.observation_space, undrawn.action_space)
    agent.facts = {"env_id": UNDRAWN}
    assert len(play(agent, UNDRAWN, episodes=2, seed=0, console=Console(quiet=True))) == 2
    recording = Recording(tmp_path / "a.gif")
    one_line(lambda: play(agent, UNDRAWN, episodes=2, record=recording), ValueError, UNDRAWN, "rgb_array")


class Drawing(gymnasium.Env):
    """Draws what it was made with, or fails with it."""

    def __init__(self, picture):
        self.picture = picture

    def render(self):
        if isinstance(self.picture, Exception):
            raise self.picture
        return self.picture


def test_what_is_no_frame_is_refused(tmp_path):
    recording = Recording(tmp_path / "a.gif")
    for picture, kind in (("text", "str"), (None, "NoneType"), (np.zeros((2, 2, 3)), "float64")):
        one_line(lambda picture=picture: recording.draw(Drawing(picture), ""), ValueError, kind, "rgb_array")
    missing = gymnasium.error.DependencyNotInstalled("pygame is not installed")
    one_line(lambda: recording.draw(Drawing(missing), ""), ImportError, "Drawing", "pygame")
    one_line(lambda: recording.save(10), ValueError, "no frame")
    assert not list(tmp_path.iterdir())


def test_a_recording_replaces_a_file_at_once(agent, tmp_path):
    path = tmp_path / "a.gif"
    path.write_bytes(b"old")
    record(agent, Recording(path, [1]), episodes=1)
    assert len(frames(path)) == HORIZON + 1
    assert [file.name for file in tmp_path.iterdir()] == ["a.gif"]
