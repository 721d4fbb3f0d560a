"""How agents come from a folder, a bundled name or the Hub, and go there: safetensors and JSON, never unpickled."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import gymnasium
import torch
from torch import nn

from icrl_agents import checkpoint, hub
from icrl_agents.codecs import Codec, space_from_json, space_to_json
from icrl_agents.config import AgentConfig
from icrl_agents.devices import pick_device
from icrl_agents.nn.stamp import Stamp
from icrl_agents.numerics import BuiltInFloat32, check_float32
from icrl_agents.planning import Planner, make_planner
from icrl_agents.printable import printable
from icrl_agents.run_folder import refuse_unfinished

# settings that say what weights of the same sizes mean
MEANINGS = (
    *("heads", "compressor_heads", "layout", "marks", "threshold", "min_length"),
    *("vectors", "objective", "prompt", "illegal", "similarity"),
)


class Pretrained(nn.Module, metaclass=BuiltInFloat32):
    """The part of an agent that loads and saves it.

    Weights are float32 on every device and in every process; converted ones (`half()`) are refused until `float()`.
    `agent.body.compile()` compiles an agent and keeps the names of its weights; `agent.body = torch.compile(...)`
    renames them: that agent acts, but saving it is refused. `nn.DataParallel(agent)` acts through its `module`.
    """

    stamp: Stamp | None = None  # of the weights that were found to be float32
    config: AgentConfig
    observation_space: gymnasium.Space
    action_space: gymnasium.Space
    source: str  # where the agent came from
    origin: str = ""  # the folder's name or the id that it was loaded by
    facts: dict[str, Any]  # where the weights come from; written into config.json and the card

    @abstractmethod
    def use_plan(self, plan: str | Planner | None, plan_kwargs: Mapping[str, Any] | None = None) -> None:
        """Act with a planner from now on."""

    @classmethod
    def from_pretrained(
        cls,
        id_or_path: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        device: str | torch.device = "auto",
        plan: str | Planner | None = None,
        plan_kwargs: Mapping[str, Any] | None = None,
    ) -> Self:
        """Load an agent from a folder, a bundled name (no network) or the Hugging Face Hub.

        `agent.source` says which of the three it was. Nothing is ever unpickled. `plan` and `plan_kwargs` are those of
        `use_plan`.

        Args:
            device: "auto" (a CUDA GPU, else MPS, else the CPU), "cpu", "mps", "cuda", "cuda:1" or a `torch.device`;
                weights are float32 on all of them. An agent that is moved later with `to` begins its next task there.

        Raises:
            FileNotFoundError: a path that does not exist, a run that is not finished, or a repo, revision or file that
                is not on the Hub.
            ValueError: a checkpoint that is damaged, foreign, newer than this package, or does not fit its config; a
                device that this machine lacks.
        """
        chosen = pick_device(device)  # a misspelt name should not cost a download
        if plan is not None:
            make_planner(plan, plan_kwargs)  # nor should this one
        found = hub.fetch(
            id_or_path,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        agent = cls._from_folder(found.folder, chosen)
        agent.source = found.source
        agent.origin = found.folder.absolute().name if found.source == "local" else str(id_or_path)
        agent.use_plan(plan, plan_kwargs)
        return agent

    @classmethod
    def _from_folder(cls, folder: Path, device: torch.device) -> Self:
        from icrl_agents.methods import METHODS

        refuse_unfinished(folder)
        data = checkpoint.read_config(folder)
        with checkpoint.named(folder):
            method = checkpoint.pick(METHODS, data["method"], "method")
            if not issubclass(method, cls):
                raise ValueError(
                    f"{folder} holds a {method.__name__}, not a {cls.__name__}: load it with ICAgent or that class"
                )
            config = method.Config.from_json(data["config"])
            obs_space, action_space = (space_from_json(data[name]) for name in ("observation_space", "action_space"))
            agent = checkpoint.load_weights(lambda: method(obs_space, action_space, config), folder, device)
            agent.validate()
        agent.facts = data["facts"]
        return agent.eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json`, `model.safetensors` and the card; each file appears whole or not at all.

        Raises:
            NotADirectoryError: `folder` is a file.
            ValueError: `from_pretrained` would refuse the result: weights that are not float32, not finite, or not
                those of the agent's config.
        """
        check_float32(self)
        self.validate()
        state = self.state_dict()
        checkpoint.check_state(lambda: type(self)(self.observation_space, self.action_space, self.config), state)
        checkpoint.write_checkpoint(folder, self.to_json(), state)

    def validate(self) -> None:
        """Refuse statistics of normalisation that no data has; a ValueError if so."""
        for module in self.modules():
            if isinstance(module, Codec):
                module.validate()

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        commit_message: str = "Upload agent",
    ) -> str:
        """Upload the checkpoint as one commit, creating the repo if needed; gives the commit's URL."""
        return hub.push(
            self.save_pretrained,
            repo_id,
            private=private,
            token=token,
            revision=revision,
            commit_message=commit_message,
        )

    def to_json(self) -> dict[str, Any]:
        """The content of `config.json`: everything needed to act besides the weights."""
        from icrl_agents.methods import method_name

        return {
            "method": method_name(type(self)),
            "config": asdict(self.config),
            "observation_space": space_to_json(self.observation_space),
            "action_space": space_to_json(self.action_space),
            "facts": self.facts,
        }

    def begin_with(self, other: Pretrained, name: str) -> None:
        """Take the weights of another agent, which came from `name`.

        Raises:
            ValueError: the other one is of another method, other sizes or spaces, or its weights mean something else.
        """
        from icrl_agents.methods import method_name

        if type(other) is not type(self):
            raise ValueError(f"init={name!r} is {method_name(type(other))}, not {method_name(type(self))}: train that")
        mine, theirs = self.state_dict(), other.state_dict()
        for key in sorted(mine.keys() | theirs.keys()):
            shapes = [tuple(weights[key].shape) if key in weights else None for weights in (mine, theirs)]
            if shapes[0] != shapes[1]:
                raise ValueError(
                    f"init={name!r} has other sizes ({key}: {shapes[1]}, not {shapes[0]}): give its settings"
                )
        # where these differ the same weights would mean something else
        for key in MEANINGS:
            values = [getattr(one.config, key, None) for one in (self, other)]
            if values[0] != values[1]:
                raise ValueError(f"init={name!r} has {key}={values[1]!r}, not {values[0]!r}: give its settings")
        spaces = [(one.observation_space, one.action_space) for one in (self, other)]
        if spaces[0] != spaces[1]:
            raise ValueError(
                f"init={name!r} acts in {printable(spaces[1])}, not {printable(spaces[0])}: give one of these"
            )
        self.load_state_dict(theirs)
