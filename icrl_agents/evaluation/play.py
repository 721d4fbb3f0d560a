"""Play one lifetime on one task in a terminal, with the returns of random and optimal play for comparison."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from icrl_agents.agents.shown import usual_demos
from icrl_agents.core.checks import check_value
from icrl_agents.core.families import Capability, Family, find_family
from icrl_agents.core.process.terminal import counted, print_text
from icrl_agents.evaluation.evaluate import learner_splits, random_returns
from icrl_agents.evaluation.intervals import share_of_optimum
from icrl_agents.evaluation.protocol import demonstrate
from icrl_agents.evaluation.recording import Recording, usual_episodes
from icrl_agents.evaluation.watching import SUCCESS

if TYPE_CHECKING:
    from icrl_agents.agents.agent import ICAgent

ANSI = "ansi"  # render mode whose frames are text
FRAMES = "rgb_array"  # render mode whose frames are images, for recordings
MAX_NAME = 80  # characters of a task in the caption of a recording
BAR, BESIDE = 20, 60  # characters in the line of an episode: the bar of an optimal return, and the rest


@dataclass(frozen=True)
class Episode:
    """Result of one episode."""

    number: int  # counted from 1
    total: float  # return
    success: bool | None  # whether any step was a success; None if infos lack it


@dataclass(frozen=True)
class ReferenceReturns:
    """Expected returns of random and optimal play in one episode of a task."""

    random: float
    optimal: float | None  # None if the family declares none


def play(
    agent: ICAgent,
    env_id: str,
    *,
    episodes: int = 12,
    seed: int | None = None,
    task: int | None = None,
    split: str = "test",
    fps: float = 12.0,
    animate: bool = True,
    console: Console | None = None,
    record: Recording | None = None,
    demos: int | None = None,
) -> list[Episode]:
    """Roll out `agent` for one lifetime on a task of a split, and print one line per episode.

    A terminal shows the first, a middle and the last episode step by step; other outputs get the lines only.

    Args:
        agent: the agent; its weights are frozen.
        env_id: a registered environment id.
        episodes: episodes in the lifetime.
        seed: seed of the task, the environment and the actions; sampled and printed by default.
        task: index into the tasks of the split, from 0; sampled with the seed by default.
        split: "test", "validation", "train", "all", or a named set of tasks.
        fps: displayed steps per second.
        animate: whether a terminal shows steps.
        console: output; default standard output.
        record: recording that is saved at the end, of an environment with render mode rgb_array; a terminal then
            shows no steps.
        demos: number of the expert's episodes that the agent is shown first; default `usual_demos`.

    Returns:
        The results of all episodes.

    Raises:
        ValueError: unknown id, split or task, an argument out of range, or spaces other than the agent's.
    """
    check_value("episodes", "int", episodes, (1, 1_000_000))
    check_value("fps", "float", fps, (0.1, 1e9))
    check_value("seed", "int | None", seed, (0, 2**31 - 1))
    seed = int(np.random.default_rng().integers(2**31)) if seed is None else seed
    tasks = learner_splits(agent, env_id).pick(split)
    index = _choose(len(tasks), task, seed, split)
    ids = tasks.ids[index : index + 1]  # (1,)
    console = console or Console(highlight=False)
    viewed = usual_episodes(episodes) if record is None else record.chosen(episodes)
    mode = _render_mode(tasks.family, record is not None)
    env = tasks.make(index, **({"render_mode": mode} if mode else {}))  # classes without drawing may not know the word
    count = usual_demos(agent, env_id) if demos is None else demos
    show = demonstrate(agent, env_id, count)
    given: dict[str, Any] = {"demo": show(ids, seed)} if show else {}
    env.reset(seed=seed)  # action sets of the task are known from here on; the first episode begins with the same seed
    agent.reset(env, seed=seed, **given)
    reference = reference_returns(env_id, ids, seed)
    named = tasks.family.task_text(int(ids[0]))
    print_text(f"{env_id}, task {index} of {counted(len(tasks), f'{split} task')}: {named}; seed {seed}.", console)
    drawn = " The drawing shows you the whole task; the agent sees its observations only." if env.render_mode else ""
    told = f" It has been shown {counted(count, 'demonstration')} of the expert." if show else ""
    print_text(f"The weights are frozen.{told}{drawn}", console)
    animated = animate and env.render_mode and console.is_terminal and record is None
    screen = Screen(console, fps if animated else 0.0)
    shown = Shown(screen if record is None else record, viewed)
    with screen:
        played = _live(agent, env, episodes, seed, reference, screen, shown)
    env.close()
    if record is not None:
        where = f"{env_id}, {split} task {index}" + (f" ({named})" if len(named) <= MAX_NAME else "")
        print_text(f"Recorded {record.save(fps, recorded_note(where, viewed, episodes))}.", console)
    return played


def recorded_note(where: str, recorded: Iterable[int], episodes: int) -> str:
    """Caption of recorded episodes, such as "icrl/Darkroom-v0, test task 3: episodes 1 and 12 of a lifetime of 12"."""
    *first, last = map(str, sorted(recorded))
    numbers = f"episodes {', '.join(first)} and {last}" if first else f"episode {last}"
    return f"{where}: {numbers} of a lifetime of {episodes}"


def _render_mode(family: Family, recorded: bool) -> str | None:
    """The render mode of a recording or a terminal; None if the family has none for a terminal."""
    env = family.make(0)
    modes = env.metadata.get("render_modes", ())
    env.close()
    if recorded and FRAMES not in modes:
        raise ValueError(
            f"{family.env_id} has the render modes {list(modes)}: only environments with {FRAMES!r} can be recorded"
        )
    wanted = FRAMES if recorded else ANSI
    return wanted if wanted in modes else None


def reference_returns(env_id: str, task: np.ndarray, seed: int) -> ReferenceReturns:
    """Reference returns of the task id `task` (1,)."""
    family = find_family(env_id)
    knows = family.offers(Capability.OPTIMAL_RETURN)
    optimal = float(family.optimal_return(task)[0]) if knows else None
    return ReferenceReturns(float(random_returns(env_id, task, seed)[0]), optimal)


def _choose(count: int, task: int | None, seed: int, split: str) -> int:
    if task is None:
        return int(np.random.default_rng(seed).integers(count))
    if not 0 <= task < count:
        raise ValueError(f"task={task}: the {split} split has the tasks 0 to {count - 1}")
    return task


class Viewer(Protocol):
    """Shows or records the steps of an episode."""

    def draw(self, env: Any, caption: str, last: bool = False) -> None:
        """Show what `env.render()` returns now, at the end of an episode if `last`."""


class Shown(NamedTuple):
    """Episodes that are shown step by step, and by what."""

    viewer: Viewer
    episodes: set[int]

    def of(self, number: int) -> Viewer | None:
        return self.viewer if number in self.episodes else None


def _live(
    agent: ICAgent, env: Any, episodes: int, seed: int, reference: ReferenceReturns, screen: Screen, shown: Shown
) -> list[Episode]:
    played: list[Episode] = []
    for number in range(1, episodes + 1):
        obs, _ = env.reset(seed=seed if number == 1 else None)
        played.append(_episode(agent, env, obs, number, shown.of(number), f"episode {number} of {episodes}"))
        screen.line(episode_line(played[-1], reference, screen.bar))
    screen.close()
    print_text(verdict(played, reference), screen.console)
    return played


def _episode(agent: ICAgent, env: Any, obs: Any, number: int, viewer: Viewer | None, caption: str) -> Episode:
    """One episode in the standard Gymnasium loop; infos are read for the printed success only."""
    total, steps, done = 0.0, 0, False
    success: bool | None = None
    while not done:
        if viewer:
            viewer.draw(env, _caption(caption, total, steps, success))
        obs, reward, terminated, truncated, info = env.step(agent.act(obs))
        agent.observe(obs, reward, terminated, truncated, info)
        total, steps = total + float(reward), steps + 1
        if SUCCESS in info:
            success = bool(success) or bool(info[SUCCESS])
        done = terminated or truncated
    if viewer:
        viewer.draw(env, _caption(caption, total, steps, success), last=True)
    return Episode(number, total, success)


def _caption(episode: str, total: float, steps: int, success: bool | None) -> str:
    return f"{episode}, return {total:g}, step {steps}" + (", success" if success else "")


class Screen:
    """Terminal output: drawings at `fps` steps per second, and lines; with `fps` 0 lines only."""

    def __init__(self, console: Console, fps: float):
        self.console, self.fps = console, fps
        self.live = Live(console=console, auto_refresh=False, transient=True) if fps else None

    @property
    def bar(self) -> int:
        """Length of an episode's bar in characters; shorter or 0 in a narrow terminal."""
        room = self.console.width - BESIDE if self.console.is_terminal else BAR
        return min(BAR, room) if room >= 4 else 0

    def __enter__(self) -> Screen:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the drawing; printed lines stay."""
        if self.live:
            self.live.stop()

    def draw(self, env: Any, caption: str, last: bool = False) -> None:
        if self.live:
            room = Text(env.render())
            room.highlight_regex(r"(?<!\S)A(?!\S)", "bold blue")
            room.highlight_regex(r"(?<!\S)G(?!\S)", "bold yellow")
            room.highlight_regex(r"(?<!\S)\*(?!\S)", "bold green")
            self.live.update(Group(Text(caption), room), refresh=True)
            time.sleep(1 / self.fps)

    def line(self, text: str) -> None:
        print_text(text, self.console)


def episode_line(episode: Episode, reference: ReferenceReturns, length: int = BAR) -> str:
    """Line of an episode: its number, a bar for its share of the optimum, and its return with both references."""
    bar = ""
    if length and reference.optimal is not None:
        share = float(share_of_optimum(episode.total, reference.random, reference.optimal))
        filled = round(length * min(max(share, 0.0), 1.0)) if np.isfinite(share) else 0
        bar = f"  [{'#' * filled}{'.' * (length - filled)}]"
    beside = f"random {reference.random:5.2f}"
    if reference.optimal is not None:
        beside += f"   optimal {reference.optimal:5.2f}"
    return f"episode {episode.number:3d}{bar}  return {episode.total:5.2f}   {beside}"


def verdict(played: list[Episode], reference: ReferenceReturns) -> str:
    """Summary of a lifetime in one sentence."""
    found = next((episode.number for episode in played if episode.success), None)
    if found is None and any(episode.success is not None for episode in played):
        return f"In {counted(len(played), 'episode')} the agent never succeeded."
    tail = played[-max(1, len(played) // 3) :]
    earned = sum(episode.total for episode in tail) / len(tail)
    ending = "its last episode" if len(tail) == 1 else f"its last {len(tail)} episodes"
    ending += f" earned {earned:.2f}" + " each" * (len(tail) > 1)
    began = f"The agent first succeeded in episode {found}; {ending}" if found else f"{ending[:1].upper()}{ending[1:]}"
    possible = "" if reference.optimal is None else f" of {reference.optimal:.2f} possible,"
    return f"{began},{possible} where random play earns {reference.random:.2f}."
