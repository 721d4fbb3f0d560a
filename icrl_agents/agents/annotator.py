"""Annotator: a trained model that labels histories and never acts. Axis letters: B rows (histories), T steps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import gymnasium
import numpy as np
import torch

from icrl_agents.agents import pretrained
from icrl_agents.agents.holder import WeightsHolder
from icrl_agents.core.arrays import digest
from icrl_agents.core.printable import printable
from icrl_agents.core.spaces import space_to_json
from icrl_agents.core.steps import Steps
from icrl_agents.hub.download import Download
from icrl_agents.methods.base.predictor import Predictor
from icrl_agents.nn.devices import pick_device
from icrl_agents.nn.numerics import acting


class Annotator(WeightsHolder):
    """Labels the steps of histories, for example with latent actions: `store.annotate(model.columns, model)`.

    Args:
        method: instance of a class in `PREDICTORS`.
        facts: provenance of the weights, as JSON; written into `config.json` and the card.
    """

    method: Predictor

    def __init__(self, method: Predictor, facts: Mapping[str, Any] | None = None):
        if not isinstance(method, Predictor):
            raise TypeError(f"method is {printable(method, 80)}, expected a Predictor; from_pretrained loads one")
        self.method, self.facts = method, dict(facts or {})

    def __repr__(self) -> str:
        size = sum(parameter.numel() for parameter in self.parameters())
        trained = self.facts.get("env_id", "no environment yet")
        return (
            f"Annotator({type(self.method).__name__}, {self.origin or self.source})\n"
            f"  trained on {trained}: {self.observation_space} -> {', '.join(self.columns)}\n"
            f"  {size:,} parameters, on {self.device}"
        )

    @property
    def config(self) -> Any:
        return self.method.config

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of histories that it predicts."""
        return self.method.columns

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the weights, the `identity` of `HistoryStore.annotate`."""
        return digest(self.state_dict())

    def check_space(
        self, observation_space: gymnasium.Space, where: str, action_space: gymnasium.Space | None = None
    ) -> None:
        """Refuse (ValueError) histories `where` of other spaces: of observations, and of actions if it finds them."""
        spaces = {"observations": (self.observation_space, observation_space)}
        if self.method.action is not None and action_space is not None:
            spaces["actions"] = self.action_space, action_space
        for name, (ours, theirs) in spaces.items():
            if space_to_json(theirs) != space_to_json(ours):
                raise ValueError(
                    f"{where} has {name} {printable(theirs, 80)}, the model {printable(ours, 80)}: label others with it"
                )

    def __call__(self, steps: Steps) -> dict[str, np.ndarray]:
        """Labels (B, T, ...) by column of whole histories (B, T), see `label` of the method."""
        with acting(self.method):
            return self.method.label(steps)

    def measure(self, steps: Steps) -> dict[str, Any]:
        """Quality on histories (B, T) as plain numbers, see `measure` of the method."""
        with acting(self.method):
            return self.method.measure(steps)

    @classmethod
    def from_pretrained(cls, id_or_path: str | Path, *, device: str | torch.device = "auto", **hub: Any) -> Self:
        """Load a model from a folder, a bundled name or the Hub; nothing is ever unpickled.

        Args:
            id_or_path: as in `ICAgent.from_pretrained`.
            device: as there.
            hub: options of a download, the fields of `Download`.

        Raises:
            FileNotFoundError: the path, Hub repository, revision or file does not exist, or the run is unfinished.
            ValueError: the model is an agent, the checkpoint is damaged, or this machine has no such device.
        """
        found = pretrained.load(id_or_path, pick_device(device), Download(**hub))
        if not isinstance(found.method, Predictor):
            raise ValueError(f"{printable(id_or_path)} is an agent, which labels nothing: use ICAgent.from_pretrained")
        model = cls(found.method, found.facts)
        model.source, model.origin = found.source, found.origin
        return model
