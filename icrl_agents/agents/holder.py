"""WeightsHolder: wrapper around a trained model: its sizes, device and weights, and saving them.

`MethodHolder` adds the acting state of an agent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from functools import wraps
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import gymnasium
import torch
from torch import nn

from icrl_agents.agents import pretrained, restoring, saving
from icrl_agents.agents.session import Session
from icrl_agents.methods.base.method import Method
from icrl_agents.methods.base.trainable import Trainable


class WeightsHolder:
    """Wrapper around one model that forwards spaces, device, mode and weights, named as in `nn.Module`."""

    method: Trainable
    facts: dict[str, Any]  # provenance of the weights
    source: str = "new"  # origin of the weights: new, local, bundled or hub@commit
    origin: str = ""  # folder name or id that they were loaded by

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


Call = TypeVar("Call", bound=Callable[..., Any])


def alone(call: Call) -> Call:
    """Method of an agent that refuses (RuntimeError) to run while another thread is in one of the same agent."""

    @wraps(call)
    def guarded(agent: MethodHolder, *args: Any, **kwargs: Any) -> Any:
        with nullcontext() if agent._session is None else agent._session.held():
            return call(agent, *args, **kwargs)

    return cast(Call, guarded)


class MethodHolder(WeightsHolder):
    """`WeightsHolder` of a method, with the acting state of an agent."""

    method: Method
    _session: Session | None = None

    @property
    def session(self) -> Session:
        """Acting state since the last `reset`, read-only; RuntimeError if there is none or the device has changed."""
        if self._session is None:
            raise RuntimeError("no task has begun: call agent.reset(), or reset(env) for a vector environment, first")
        if self._session.device != self.device:
            raise RuntimeError(
                f"the agent moved from {self._session.device} to {self.device} in the middle of a task: "
                "call agent.reset(), or move it back"
            )
        return self._session

    def _begin(self, session: Session) -> None:
        """Replace the acting state, as the last action of a call: a failed one keeps the old state."""
        if self._session is not None:
            session.lock = self._session.lock
        self._session = session

    @property
    def config(self) -> Any:
        return self.method.config

    @alone
    def save_context(self, folder: str | Path) -> None:
        """Write all that the agent knows of its task to `context.safetensors` in `folder`, atomically; no weights.

        An agent that loads it acts on exactly as this one does, also between `act` and `observe`, with waiting
        decisions and random numbers. The env and the current plan of a planner are not saved.

        Raises:
            NotADirectoryError: `folder` is a file.
            RuntimeError: no `reset` yet, or another thread is acting.
        """
        saving.save(self.method, self.session, folder)

    @alone
    def load_context(self, folder: str | Path) -> None:
        """Continue from a context that `save_context` wrote for an agent with the same weights; no reset is needed.

        Rows that begin new tasks need `action_set` or `num_actions` in `reset(mask=...)` where action sets came from an
        env. Nothing is unpickled; a call that fails leaves the agent as it was.

        Raises:
            FileNotFoundError: `folder` has no saved context.
            ValueError: the file is damaged, of another agent, newer than this package, or saved on another device.
            RuntimeError: another thread is acting.
        """
        self._begin(restoring.load(self.method, folder))
