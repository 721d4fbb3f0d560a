"""Task families with Gymnasium environments: importing this package registers the icrl/* ids.

`FAMILIES` holds the tasks of each id, `find_family(id)` returns its `Family`. `register_family` adds tasks of any
Gymnasium environment, `register_rules` adds dynamics written on arrays.
"""

from icrl_envs.bandits.bernoulli_bandit import BernoulliBandit
from icrl_envs.bandits.contextual_bandit import ContextualBandit
from icrl_envs.bandits.gaussian_bandit import GaussianBandit, LinearBandit
from icrl_envs.base.capability import Capability, UndeclaredError
from icrl_envs.base.family import Family, TaskSet
from icrl_envs.base.flat import flat_env
from icrl_envs.base.gym.family import GymFamily
from icrl_envs.base.registry import (
    FAMILIES,
    Registration,
    env_family,
    find_family,
    register_family,
    register_rules,
    registration,
    restore,
    unregister_family,
)
from icrl_envs.base.rules import Rules
from icrl_envs.base.split import Split, numpy_shuffle
from icrl_envs.continuous.half_cheetah_vel import register_half_cheetah_vel
from icrl_envs.continuous.pendulum_mass import PendulumMass
from icrl_envs.continuous.point_robot import PointRobot
from icrl_envs.grids.dark_key_to_door import DarkKeyToDoor
from icrl_envs.grids.darkroom import Darkroom
from icrl_envs.grids.darkroom_macro import DarkroomMacro
from icrl_envs.grids.darkroom_mixed_turns import DarkroomMixedTurns
from icrl_envs.grids.darkroom_permuted import DarkroomPermuted
from icrl_envs.grids.darkroom_starts import DarkroomStarts
from icrl_envs.grids.darkroom_turns import DarkroomTurns
from icrl_envs.metaworld.family import register_metaworld
from icrl_envs.pixels.pixel_grid import PixelGrid
from icrl_envs.procgen.family import register_procgen

__all__ = [
    "BUILT_IN",
    "FAMILIES",
    "Capability",
    "Family",
    "GymFamily",
    "Registration",
    "Rules",
    "Split",
    "TaskSet",
    "UndeclaredError",
    "env_family",
    "find_family",
    "flat_env",
    "register_family",
    "register_rules",
    "registration",
    "restore",
    "unregister_family",
]

register_rules(Darkroom, "icrl/Darkroom-v0", 20, Split(0.9, 0), size=9)
register_rules(Darkroom, "icrl/Darkroom3x3-v0", 6, Split(0.9, 0), size=3)
register_rules(Darkroom, "icrl/Darkroom17x17-v0", 50, Split(0.9, 0), size=17)
register_rules(Darkroom, "icrl/Darkroom10x10-v0", 100, Split(0.8, 0, numpy_shuffle), size=10, start=(0, 0))
register_rules(DarkroomStarts, "icrl/DarkroomFixedStart-v0", 20, Split(0.9, 0), starts="lifetime")
register_rules(DarkroomStarts, "icrl/DarkroomRandomStart-v0", 20, Split(0.9, 0), starts="episode")
register_rules(DarkroomStarts, "icrl/DarkroomAnyStart-v0", 20, Split(0.9, 0), starts="mixed")
register_rules(DarkroomTurns, "icrl/DarkroomTurns-v0", 20, Split(0.95, 0))
register_rules(DarkroomTurns, "icrl/DarkroomTurns5x5-v0", 10, Split(0.95, 0), size=5, turn=4)
register_rules(DarkroomMixedTurns, "icrl/DarkroomMixedTurns-v0", 20, Split(0.95, 0))
register_rules(DarkroomPermuted, "icrl/DarkroomPermuted-v0", 50, Split(0.9, 4))
register_rules(DarkroomMacro, "icrl/DarkroomMacro-v0", 20)
register_rules(DarkKeyToDoor, "icrl/DarkKeyToDoor-v0", 50, Split(0.95, 4))
register_rules(BernoulliBandit, "icrl/BernoulliBandit-v0", 300)
register_rules(ContextualBandit, "icrl/ContextualBandit-v0", 300)
register_rules(GaussianBandit, "icrl/GaussianBandit-v0", 500)
register_rules(LinearBandit, "icrl/LinearBandit-v0", 200)
register_rules(PointRobot, "icrl/PointRobot-v0", 20, Split(0.95, 0))
register_rules(PointRobot, "icrl/PointRobotSparse-v0", 20, Split(0.95, 0), reward="sparse")
register_rules(PendulumMass, "icrl/PendulumMass-v0", 25, Split(0.8, 0))
register_rules(PixelGrid, "icrl/PixelGrid-v0", 20, Split(0.9, 0))
register_rules(PixelGrid, "icrl/PixelGridCells-v0", 20, Split(0.9, 0), obs="cells")
register_rules(PixelGrid, "icrl/PixelGridGoal-v0", 20, Split(0.9, 0), show_goal=True)
register_rules(PixelGrid, "icrl/PixelGridDistractors-v0", 20, Split(0.9, 0), show_goal=True, distractors=4)
register_metaworld()
register_half_cheetah_vel()
register_procgen()

BUILT_IN = frozenset(FAMILIES)
"""Ids of this package's own families."""
