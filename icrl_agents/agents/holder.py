"""MethodHolder: the part of an agent's interface that its method answers, and saving it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import gymnasium
import torch
from torch import nn

from icrl_agents.agents import pretrained
from icrl_agents.methods.base.config import AgentConfig
from icrl_agents.methods.base.method import Method


class MethodHolder:
    """Wrapper around one `Method` that forwards config, spaces, device, mode and weights, named as in `nn.Module`."""

    method: Method
    facts: dict[str, Any]  # provenance of the weights

    @property
    def config(self) -> AgentConfig:
        return self.method.config

    @property
    def observation_space(self) -> gymnasium.Space:
        return self.method.observation_space

    @property
    def action_space(self) -> gymnasium.Space:
        return self.method.action_space

    @property
    def device(self) -> torch.device:
        return self.method.device

    @property
    def training(self) -> bool:
        return self.method.training

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move the weights, as `torch.nn.Module.to`; call `reset` before the next action."""
        self.method.to(*args, **kwargs)
        return self

    def eval(self) -> Self:
        self.method.eval()
        return self

    def train(self, mode: bool = True) -> Self:
        self.method.train(mode)
        return self

    def float(self) -> Self:
        """Convert the weights back to float32, as acting and saving require."""
        self.method.float()
        return self

    def half(self) -> Self:
        """Convert the weights to float16, for other programs; acting and saving require `float()` first."""
        self.method.half()
        return self

    def parameters(self) -> Iterator[nn.Parameter]:
        return self.method.parameters()

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        return self.method.named_parameters()

    def state_dict(self) -> dict[str, Any]:
        return self.method.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.method.load_state_dict(state)

    # ---- saving -------------------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json`, `model.safetensors` and the card; each file is written atomically.

        Raises:
            NotADirectoryError: `folder` is a file.
            ValueError: `from_pretrained` would refuse the result: weights that are not float32, not finite, or do not
                fit the config.
        """
        pretrained.save(self.method, self.facts, folder)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        commit_message: str = "Upload agent",
    ) -> str:
        """Upload the checkpoint to the Hub as one commit, creating the repository if needed; returns the commit URL."""
        return pretrained.publish(
            self.save_pretrained,
            repo_id,
            private=private,
            token=token,
            revision=revision,
            commit_message=commit_message,
        )
