"""Macro Darkroom: a hidden goal, and actions that are sequences of three moves.

Axis letters: B rows, N tasks, C cells, M macros of an action set.
"""

from __future__ import annotations

import itertools
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from icrl_envs.base.capability import Capability
from icrl_envs.base.checks import as_array, short
from icrl_envs.base.vector import ArrayEnv, ArrayVectorEnv
from icrl_envs.grids.grid import GOAL, STAY, GridRules

SEED = 0  # seed of the published sets; each shuffle has its own child generator
SIZE, LENGTH = 9, 3  # side of the room in cells, and moves per macro
MOVES = (STAY, 1, 2, 0, 3)  # stay, x0-1, x1+1, x0+1, x1-1: the published order, as moves of `grid`
MACROS = np.array(list(itertools.product(MOVES, repeat=LENGTH)))  # (125, 3)
TRAIN_GOALS, TRAIN_MACROS = 68, 50  # the others are held out
ORDERS = {"train": 2, "test": 8}  # permutations of the training macros per goal, for 100 tasks or more

Task = tuple[int, tuple[int, ...]]  # the goal's cell, the action set


class MacroTasks(NamedTuple):
    """Table of tasks."""

    goal: np.ndarray  # (N,) cells
    actions: np.ndarray  # (N,) number of legal actions; these come first
    macros: np.ndarray  # (N, 125) int64 macro of each action; illegal actions stay (macro 0)
    expert: np.ndarray  # (N, C) action on a shortest path to the goal
    steps: np.ndarray  # (N,) length of that path from the start in actions, inf if there is none


class DarkroomMacro(GridRules):
    """A goal cell and a set of macros. State: stage * C + cell, with stage 1 once the goal was passed."""

    task_names = ("goal", "action_set")
    lifetime = 200
    capabilities = GridRules.capabilities | {Capability.RANDOM_RETURN, Capability.ACTION_MASKS}

    def __init__(self, horizon: int = 20):
        super().__init__(SIZE, None, horizon, stages=2)
        self.action_space = spaces.Discrete(len(MACROS))
        cells = [np.arange(self.cells)[:, None]]
        for move in MACROS.T:
            cells.append(self.moves[cells[-1], move])
        self.paths = np.stack(cells[1:], -1)  # (C, 125, 3) cells after each move of a macro
        sets = published_sets()
        ends = np.cumsum([0, *map(len, sets.values())]).tolist()
        found = {name: range(*ends[i : i + 2]) for i, name in enumerate(sets)}
        self.extra = {name: found.pop(name) for name in sets if name.startswith("one_")}
        self.named = {"train": found["train_train"], **found}
        self.training = tuple(name for name in sets if name.endswith("_train"))
        self.num_tasks = min(ids.start for ids in self.extra.values())
        self._ids = {task: i for i, task in enumerate(itertools.chain(*sets.values()))}
        self._given: list[Task] = []  # user-defined tasks that are not yet in the table
        self._table: MacroTasks | None = None

    @property
    def known_tasks(self) -> int:
        """Number of tasks, user-defined ones included."""
        return len(self._ids)

    @property
    def table(self) -> MacroTasks:
        """All tasks: those of the sets, then user-defined ones."""
        if self._table is None:
            self._table = published_tasks()
        if self._given:
            given = self.plan(self._given)
            self._table = MacroTasks(*map(np.concatenate, zip(self._table, given, strict=True)))
            self._given = []
        return self._table

    def plan(self, tasks: list[Task]) -> MacroTasks:
        """Build the table of `tasks`, with their shortest paths."""
        macros = np.zeros((len(tasks), len(MACROS)), np.int64)
        expert = np.zeros((len(tasks), self.cells), np.int64)
        steps = np.zeros(len(tasks))
        for row, (goal, action_set) in enumerate(tasks):
            macros[row, : len(action_set)] = action_set
            expert[row], left = self._shortest(goal, action_set)
            steps[row] = left[self.start_cell]
        goals, action_sets = zip(*tasks, strict=True)
        return MacroTasks(np.array(goals), np.array([*map(len, action_sets)]), macros, expert, steps)

    def _shortest(self, goal, action_set):
        """Value iteration: the best action (C,) in every cell, and its number of remaining actions (C,)."""
        paths = self.paths[:, action_set]  # (C, M, 3)
        passes, ends = (paths == goal).any(2), paths[..., -1]  # (C, M) each
        left, known = np.full(self.cells, np.inf), None
        while not np.array_equal(left, known):
            steps = np.where(passes, 1, 1 + left[ends])  # (C, M)
            left, known = steps.min(1), left
        return steps.argmin(1), left

    def task_kwargs(self, task_id: int) -> dict[str, Any]:
        """Return {"goal": (x0, x1), "action_set": (macro, ...)}."""
        table = self.table
        macros = table.macros[task_id, : table.actions[task_id]]
        return {"goal": self.xy(table.goal[task_id]), "action_set": tuple(macros.tolist())}

    def task_id(self, **task: Any) -> int:
        """Return the id of the task with these make() arguments; the default action set is the training macros."""
        return super().task_id(**({"action_set": self._train_macros} | task if "goal" in task else task))

    @property
    def _train_macros(self):
        return published_sets()["train_train"][0][1]

    def find_task(self, **task: Any) -> int:
        given = as_array(task["action_set"])
        macros = tuple(given.reshape(-1).tolist())
        fits = given.ndim == 1 and given.dtype.kind in "iu" and set(macros) <= set(range(len(MACROS)))
        if not (fits and 0 < len(macros) == len(set(macros))):
            top = len(MACROS) - 1
            raise ValueError(
                f"action_set={short(task['action_set'])}: give different macros, integers from 0 to {top}, "
                f"such as action_set={self._train_macros[:3]}."
            )
        key = self.check_cell(task["goal"], "goal"), macros
        if key not in self._ids:
            self._ids[key] = len(self._ids)
            self._given.append(key)
        return self._ids[key]

    def step(self, state: np.ndarray, action: np.ndarray, task: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Apply all moves of a macro; reward 1 if one of them ends on the goal, once per episode."""
        table, (done, cell) = self.table, np.divmod(state, self.cells)
        path = self.paths[cell, table.macros[task, action]]  # (B, 3)
        legal = action < table.actions[task]  # (B,); illegal actions stay, without a reward on the goal
        found = (path == table.goal[task, None]).any(1) & legal & (done == 0)
        return path[:, -1] + self.cells * (done | found), found.astype(np.float64)

    def terminated(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Return (B,) bool: the goal was passed, which ends the episode."""
        return state >= self.cells

    def success(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Return (B,) bool: the goal was passed in this episode."""
        return state >= self.cells

    def action_mask(self, task: np.ndarray) -> np.ndarray:
        """Return (N, 125) int8, 1 for actions with a macro."""
        return (np.arange(len(MACROS)) < self.table.actions[task, None]).astype(np.int8)

    def optimal_return(self, task: np.ndarray) -> np.ndarray:
        """Return 1 in the published sets; 0 if the action set cannot reach the goal within the horizon."""
        return (self.table.steps[task] <= self.horizon).astype(np.float64)

    def random_return(self, task: np.ndarray) -> np.ndarray:
        """Return the probability (B,) that uniformly random legal actions find the goal."""
        different, which = np.unique(task, return_inverse=True)
        return np.array([self._chance(index) for index in different])[which]

    def _chance(self, index):
        paths = self.paths[:, self.table.macros[index, : self.table.actions[index]]]  # (C, M, 3)
        passes, ends = (paths == self.table.goal[index]).any(2), paths[..., -1]
        chance = np.zeros(self.cells)  # (C,) probability to pass the goal within 0, 1, ... actions
        for _ in range(self.horizon):
            chance = np.where(passes, 1, chance[ends]).mean(1)
        return chance[self.start_cell]

    def expert_action(self, state: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Return the action (B,) on a shortest path; ties go to the lowest number."""
        return self.table.expert[task, state % self.cells]

    def frame(self, state: int, task: int) -> np.ndarray:
        """Draw the goal green, the agent blue."""
        return self.draw({int(self.table.goal[task]): GOAL}, state % self.cells)

    def text(self, state: int, task: int) -> str:
        """Write G for the goal, A for the agent, * for both; below, whether the goal was passed."""
        note = "goal passed" if state >= self.cells else "goal hidden"
        return self.write({int(self.table.goal[task]): "G"}, state % self.cells, note)


@lru_cache(maxsize=1)
def published_sets() -> dict[str, list[Task]]:
    """Build the published sets, the training tasks first; cached, so environments share them."""
    one, two, *others, three = map(np.random.default_rng, np.random.SeedSequence(SEED).spawn(5))
    cells, macros = one.permutation(SIZE**2).tolist(), tuple(two.permutation(len(MACROS)).tolist())
    goals = {"train": cells[:TRAIN_GOALS], "test": cells[TRAIN_GOALS:]}
    train, test = macros[:TRAIN_MACROS], macros[TRAIN_MACROS:]
    sets = {"train": train, "cut_test": test[:TRAIN_MACROS], "test": test, "all": macros}
    drawn = {f"{name}_{part}": [(goal, each) for goal in goals[part]] for name, each in sets.items() for part in goals}
    for part, rng in zip(goals, others, strict=True):
        again = goals[part] * ORDERS[part]
        drawn[f"perm_train_{part}"] = [(goal, tuple(rng.permutation(train).tolist())) for goal in again]
    order = tuple(three.permutation(train).tolist())
    return drawn | {f"one_perm_train_{part}": [(goal, order) for goal in goals[part]] for part in goals}


@lru_cache(maxsize=1)
def published_tasks() -> MacroTasks:
    """Build the table of the tasks in all sets; cached, so environments share it."""
    return DarkroomMacro().plan([*itertools.chain(*published_sets().values())])


class DarkroomMacroEnv(ArrayEnv):
    """A dark room with a hidden goal, and actions that differ between tasks.

    ## Description
    `icrl/DarkroomMacro-v0` is a 9x9 room; episodes start in its centre. An action applies a macro: three moves, each
    blocked by walls. All three are applied, and the goal is found if one of them ends on it. A task is a goal and an
    action set: the available macros, and their assignment to actions.

    ## Action space
    `Discrete(125)`: action k applies the macro `action_set[k]`. Macro 25 * i + 5 * j + k has the moves i, j, k of:
    0 stay, 1 x0-1 (up in drawings), 2 x1+1 (right), 3 x0+1, 4 x1-1. Actions from `len(action_set)` on are illegal:
    they are 0 in `info["action_mask"]`, do not move, and earn no reward, not even on the goal.

    ## Observation space
    `Box(0, 8, (2,), int32)`: the agent's coordinates (x0, x1), nothing else. The public code observes the cell index,
    `Discrete(81)`, 9 * x0 + x1; coordinates reveal which cells are neighbours.

    ## Reward
    1.0 when the goal is found, else 0.0. Best return: 1 (0 if a user-defined action set cannot reach the goal).

    ## Episode end
    `terminated` when the goal is found; after 20 steps `truncated`.

    ## Arguments
    `goal=(x0, x1)` and `action_set=(macro, ...)`, different integers from 0 to 124, fix the task, here or in
    `reset(options={"task": {...}})`; the default action set is the 50 training macros. Sampling of tasks and `horizon`
    are as in `DarkroomEnv`. A task outside all sets gets an id after theirs, which is valid in that environment only.

    ## Tasks
    Of the 81 goals 68 are for training, of the 125 macros 50. `FAMILIES[id].named(name)`: "train" (the training goals,
    each once, with the training macros) and <macros>_<goals> where goals are "train" or "test" and macros are "train",
    "perm_train" (the same ones in a random order per task; several tasks per goal), "cut_test" (50 of the others),
    "test" (all 75 others) and "all" (training macros, then the others). "train_train" is "train"; all other sets are
    held out. Outside the split: "one_perm_train_train" and "one_perm_train_test", whose tasks share one random order.

    ## Info
    `task`, `success` (the goal was found in this episode), `optimal_return` and `action_mask` (int8, as
    `action_space.sample` takes it). All but `action_mask` are for display and metrics only.

    ## Version
    v0: dynamics and sets as in the Headless-AD paper (Sinii et al. 2024). Its public code samples the goals of the
    10,000 training tasks and of the 100 in each other set with replacement, and its "perm_train" is "one_perm_train"
    here.
    """

    rules_class = DarkroomMacro


class DarkroomMacroVectorEnv(ArrayVectorEnv):
    """Many `DarkroomMacroEnv`s in NumPy."""

    rules_class = DarkroomMacro
