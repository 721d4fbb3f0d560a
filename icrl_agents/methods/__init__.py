"""Methods, one paper per file; `METHODS` is their registry for checkpoints, the command line and tests."""

from icrl_agents.methods.ad import AD
from icrl_agents.methods.base.method import Method
from icrl_agents.methods.compressed_ad import CAD
from icrl_agents.methods.dpt import DPT
from icrl_agents.methods.headless_ad import HeadlessAD
from icrl_agents.methods.idt import IDT
from icrl_agents.methods.marked_ad import MarkedAD

METHODS: dict[str, type[Method]] = {
    "ad": AD,
    "cad": CAD,
    "dpt": DPT,
    "headless-ad": HeadlessAD,
    "idt": IDT,
    "marked-ad": MarkedAD,
}


def method_name(cls: type) -> str:
    """Registry name of a method class; ValueError if it is not registered."""
    for name, method in METHODS.items():
        if method is cls:
            return name
    raise ValueError(f"{cls.__name__} is not in METHODS: add it to icrl_agents/methods/__init__.py")
