"""Loading, saving and uploading of models: folders, bundled agents and the Hub, as safetensors and JSON."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
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
from icrl_agents.methods import MODELS, method_name
from icrl_agents.methods.base.trainable import Trainable
from icrl_agents.nn.numerics import check_float32


class Loaded(NamedTuple):
    """Loaded model in eval mode, and the origin of its weights."""

    method: Trainable
    facts: dict[str, Any]  # provenance of the weights
    source: str = "local"  # local, bundled or hub@<commit>
    origin: str = ""  # folder name or id


# ---- loading ----------------------------------------------------------------------------------------------------


def load(id_or_path: str | Path, device: torch.device, options: Download = Download()) -> Loaded:
    """Load a checkpoint by folder, bundled name or Hub id; see `ICAgent.from_pretrained`."""
    found = remote.fetch(id_or_path, options)
    named = found.folder if found.folder.name not in ("", "..") else found.folder.resolve()
    origin = named.name if found.source == "local" else str(id_or_path)
    return load_method(found.folder, device)._replace(source=found.source, origin=origin)


def load_method(folder: Path, device: torch.device = torch.device("cpu")) -> Loaded:
    """Load the checkpoint in a folder; nothing is ever unpickled.

    Raises:
        FileNotFoundError: a file is missing, or the folder belongs to an unfinished run.
        ValueError: the checkpoint is damaged, of another program, newer than this package, or does not fit its config.
    """
    refuse_unfinished(folder)
    data = checkpoint.read_config(folder)
    with checkpoint.named(folder):
        cls = pick(MODELS, data.method, "method")
        config = cls.Config.from_json(data.config)
        obs_space, action_space = (space_from_json(space) for space in (data.observation_space, data.action_space))
        method = checkpoint.load_weights(lambda: cls(obs_space, action_space, config), folder, device)
        method.validate()
    return Loaded(method.eval(), data.facts)


def init_from(method: Trainable, other: Trainable, name: str) -> None:
    """Initialise `method` with the weights of `other`, a method of the same class that was loaded as `name`.

    Raises:
        ValueError: the methods differ in class, sizes, spaces, or a field in the `MEANINGS` of their config.
    """
    if type(other) is not type(method):
        names = method_name(type(other)), method_name(type(method))
        raise ValueError(f"init={name!r} is {names[0]}, not {names[1]}: train that")
    spaces = [(one.observation_space, one.action_space) for one in (method, other)]
    if spaces[0] != spaces[1]:
        raise ValueError(f"init={name!r} acts in {printable(spaces[1])}, not {printable(spaces[0])}: give one of these")
    for key in method.config.MEANINGS:
        values = [None if key in one.config.unread else getattr(one.config, key) for one in (method, other)]
        if values[0] != values[1]:
            raise ValueError(f"init={name!r} has {key}={values[1]!r}, not {values[0]!r}: give its settings")
    ours, theirs = method.state_dict(), other.state_dict()
    for key in sorted(ours.keys() | theirs.keys()):
        shapes = [tuple(weights[key].shape) if key in weights else None for weights in (ours, theirs)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"init={name!r} has other sizes ({key}: {shapes[1]}, not {shapes[0]}): give its settings")
    method.load_state_dict(theirs)


# ---- saving -----------------------------------------------------------------------------------------------------


def save(method: Trainable, facts: Mapping[str, Any], folder: str | Path) -> None:
    """Write the checkpoint folder and card of a method; see `ICAgent.save_pretrained`."""
    folder = Path(folder).expanduser()
    check_float32(method)
    method.validate()
    state = method.state_dict()
    checkpoint.check_state(lambda: type(method)(method.observation_space, method.action_space, method.config), state)
    config, weights = checkpoint.complete(to_json(method, facts), folder), checkpoint.to_bytes(state, folder)
    card = cards.render_card(config, type(method), parameters=sum(tensor.numel() for tensor in state.values()))
    if checkpoint.has_weights(folder, weights):  # what was measured holds
        with suppress(OSError, ValueError):  # it cannot be read
            card = cards.make_card(folder, MODELS, config=config)
    checkpoint.write_checkpoint(folder, config, weights, card)


def to_json(method: Trainable, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Content of `config.json` without versions: everything besides the weights that acting needs."""
    return {
        "method": method_name(type(method)),
        "config": asdict(method.config),
        "observation_space": space_to_json(method.observation_space),
        "action_space": space_to_json(method.action_space),
        "facts": dict(facts),
    }


class Proof:
    """Checks that `hub.remote.upload` runs on a checkpoint folder before the upload."""

    def load(self, folder: Path) -> Loaded:
        return load_method(folder)

    def card(self, folder: Path, name: str | None = None) -> str:
        return cards.make_card(folder, MODELS, name)


def upload(folder: str | Path, repo_id: str, **options: Any) -> str:
    """Upload a checkpoint folder as one commit; options and result are those of `hub.remote.upload`."""
    return remote.upload(folder, repo_id, Proof(), **options)


def publish(save_to: Callable[[Path], None], repo_id: str, **options: Any) -> str:
    """Upload the checkpoint that `save_to(folder)` writes, through a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        save_to(Path(folder))
        return upload(folder, repo_id, **options)
