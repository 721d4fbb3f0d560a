"""How methods come from a folder, a bundled name or the Hub, and go there: safetensors and JSON, never unpickled."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from icrl_agents.core.checks import pick
from icrl_agents.core.printable import printable
from icrl_agents.core.spaces import space_from_json, space_to_json
from icrl_agents.hub import cards, checkpoint, remote
from icrl_agents.hub.download import Download
from icrl_agents.hub.unfinished import refuse_unfinished
from icrl_agents.methods import METHODS, method_name
from icrl_agents.methods.base.method import Method
from icrl_agents.methods.base.trainable import Trainable
from icrl_agents.nn.numerics import check_float32

# settings that say what weights of the same sizes mean
MEANINGS = (
    *("heads", "compressor_heads", "layout", "marks", "threshold", "min_length"),
    *("vectors", "objective", "prompt", "illegal", "similarity"),
)


class Loaded(NamedTuple):
    """A method in eval mode, and where its weights come from."""

    method: Method
    facts: dict[str, Any]
    source: str = "local"  # local, bundled or hub@<commit>
    origin: str = ""  # the folder's name or the id


# ---- loading ----------------------------------------------------------------------------------------------------


def load(id_or_path: str | Path, device: torch.device, options: Download = Download()) -> Loaded:
    """The checkpoint in a folder, of a bundled name or of a Hub repo; see `ICAgent.from_pretrained`."""
    found = remote.fetch(id_or_path, options)
    origin = found.folder.absolute().name if found.source == "local" else str(id_or_path)
    return load_method(found.folder, device)._replace(source=found.source, origin=origin)


def load_method(folder: Path, device: torch.device = torch.device("cpu")) -> Loaded:
    """The checkpoint in a folder.

    Raises:
        FileNotFoundError: a file is missing, or belongs to a run that is not finished.
        ValueError: a checkpoint that is damaged, foreign, newer than this package, or does not fit its config.
    """
    refuse_unfinished(folder)
    data = checkpoint.read_config(folder)
    with checkpoint.named(folder):
        cls = pick(METHODS, data["method"], "method")
        config = cls.Config.from_json(data["config"])
        obs_space, action_space = (space_from_json(data[name]) for name in ("observation_space", "action_space"))
        method = checkpoint.load_weights(lambda: cls(obs_space, action_space, config), folder, device)
        method.validate()
    return Loaded(method.eval(), data["facts"])


def init_from(method: Method, other: Method, name: str) -> None:
    """Copy the weights of another method of the same class, which came from `name`.

    Raises:
        ValueError: the other one is of another class, other sizes or spaces, or its weights mean something else.
    """
    if type(other) is not type(method):
        names = method_name(type(other)), method_name(type(method))
        raise ValueError(f"init={name!r} is {names[0]}, not {names[1]}: train that")
    ours, theirs = method.state_dict(), other.state_dict()
    for key in sorted(ours.keys() | theirs.keys()):
        shapes = [tuple(weights[key].shape) if key in weights else None for weights in (ours, theirs)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"init={name!r} has other sizes ({key}: {shapes[1]}, not {shapes[0]}): give its settings")
    for key in MEANINGS:
        values = [asdict(one.config).get(key) for one in (method, other)]
        if values[0] != values[1]:
            raise ValueError(f"init={name!r} has {key}={values[1]!r}, not {values[0]!r}: give its settings")
    spaces = [(one.observation_space, one.action_space) for one in (method, other)]
    if spaces[0] != spaces[1]:
        raise ValueError(f"init={name!r} acts in {printable(spaces[1])}, not {printable(spaces[0])}: give one of these")
    method.load_state_dict(theirs)


# ---- saving -----------------------------------------------------------------------------------------------------


def save(method: Method, facts: Mapping[str, Any], folder: str | Path) -> None:
    """Write the checkpoint folder of a method; see `ICAgent.save_pretrained`."""
    folder = Path(folder).expanduser()
    check_float32(method)
    method.validate()
    state = method.state_dict()
    checkpoint.check_state(lambda: type(method)(method.observation_space, method.action_space, method.config), state)
    config = checkpoint.complete(to_json(method, facts), folder)
    card = cards.render_card(config, type(method), parameters=sum(tensor.numel() for tensor in state.values()))
    checkpoint.write_checkpoint(folder, config, state, card)


def to_json(method: Trainable, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The content of `config.json` but for versions: everything needed to act besides the weights."""
    return {
        "method": method_name(type(method)),
        "config": asdict(method.config),
        "observation_space": space_to_json(method.observation_space),
        "action_space": space_to_json(method.action_space),
        "facts": dict(facts),
    }


class Proof:
    """What `hub.remote.upload` asks of agents before it sends one."""

    def load(self, folder: Path) -> Loaded:
        return load_method(folder)

    def card(self, folder: Path, name: str | None = None) -> str:
        return cards.make_card(folder, METHODS, name)


def upload(folder: str | Path, repo_id: str, **options: Any) -> str:
    """Upload a checkpoint folder as one commit; the options are those of `hub.remote.upload`, and so is the result."""
    return remote.upload(folder, repo_id, Proof(), **options)


def publish(save_to: Callable[[Path], None], repo_id: str, **options: Any) -> str:
    """`upload` what `save_to(folder)` writes."""
    with tempfile.TemporaryDirectory() as folder:
        save_to(Path(folder))
        return upload(folder, repo_id, **options)
