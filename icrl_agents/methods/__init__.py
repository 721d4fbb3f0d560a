"""Methods, one paper per file. Registries for checkpoints, the command line and tests:

`METHODS` act, `PREDICTORS` label histories and never act; `MODELS` are all that can be trained.
"""

from collections import ChainMap
from collections.abc import Mapping
from typing import Any

from icrl_agents.methods.ad import AD
from icrl_agents.methods.base.method import Method
from icrl_agents.methods.base.predictor import Predictor
from icrl_agents.methods.base.trainable import Trainable
from icrl_agents.methods.compressed_ad import CAD
from icrl_agents.methods.dpt import DPT
from icrl_agents.methods.headless_ad import HeadlessAD
from icrl_agents.methods.idt import IDT
from icrl_agents.methods.imitation.bc import BC
from icrl_agents.methods.imitation.dt import DT
from icrl_agents.methods.imitation.la_bc import LABC
from icrl_agents.methods.imitation.lam import LAM
from icrl_agents.methods.imitation.prompted_dt import PromptedDT
from icrl_agents.methods.imitation.vpt import VPT
from icrl_agents.methods.marked_ad import MarkedAD

METHODS: dict[str, type[Method]] = {
    "ad": AD,
    "bc": BC,
    "cad": CAD,
    "dpt": DPT,
    "dt": DT,
    "headless-ad": HeadlessAD,
    "idt": IDT,
    "la-bc": LABC,
    "marked-ad": MarkedAD,
    "prompted-dt": PromptedDT,
}
PREDICTORS: dict[str, type[Predictor]] = {"lam": LAM, "vpt": VPT}
MODELS: Mapping[str, type[Trainable]] = ChainMap[str, Any](METHODS, PREDICTORS)  # with what others add to the two


def method_name(cls: type) -> str:
    """Registry name of a class in `MODELS`; ValueError if it is not registered."""
    for name, model in MODELS.items():
        if model is cls:
            return name
    raise ValueError(f"{cls.__name__} is in no registry: add it to icrl_agents/methods/__init__.py")
