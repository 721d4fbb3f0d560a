"""TrainConfig: the settings of a training run besides the method's own, and their defaults per environment."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from icrl_agents.core.arrays import under
from icrl_agents.core.checks import as_kinds, check_choice, check_fields, check_known, pick, read_stages, stage_at
from icrl_agents.core.families import find_family, is_family
from icrl_agents.core.splits import TRAIN
from icrl_agents.methods import MODELS
from icrl_agents.methods.base.coded import CodedModel
from icrl_agents.methods.base.config import AgentConfig, ModelConfig


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run; the method's config has the others.

    By default histories are fresh lifetimes of the environment's source, every step has a loss, and AdamW has warm-up
    and cosine decay. The recipes of the released agents change some of the defaults.
    """

    task_set: str = TRAIN  # tasks to train on: "train", or another set that the environment names for training
    source: str = ""  # learner that generates fresh lifetimes, "" for the environment's default
    variant: str = ""  # environment id of fresh lifetimes, with the same spaces and tasks; "": that of the training
    episodes: int = 12  # episodes in a lifetime; bandits: 1; memory: as many as a window spans; ppo, sac: 50
    streams: int = 10  # histories of each task, collected first, of a source that learns one task at a time (ppo, sac)
    updates: int = 1000  # number of gradient updates
    batch_size: int = 32  # windows per update, over all processes
    micro_batch: int = 16  # windows per forward pass; small ones fit a CPU's cache and are several times faster there
    labels: int = 0  # steps with known actions, of bc, vpt, la-bc, lam with a decoder, prompted-dt with latents; 0: all
    labelled: str = ""  # file with the histories whose actions are known, for labels; "": the histories themselves
    pool: int = 0  # MB of windows that a stream of histories holds; 0: no stream if they fit half of the memory
    steps: str = ""  # steps of a window with a loss: "0:40 0.5:300" is the first 40, from half of the updates 300
    blind: float = 0.0  # share of windows with rewards hidden soon after the first; for tasks with one hidden thing
    blind_after: int = 40  # maximum number of steps from the first reward to the hidden ones, or to what postpone moves
    postpone: float = 0.0  # share of windows in which, soon after the first reward, episodes without one come first
    renumber: bool = False  # whether to permute the numbers of the legal actions in each window
    lr: float = 2e-3  # peak learning rate
    warmup: float = 0.1  # share of the updates over which the learning rate rises to its peak
    weight_decay: float = 0.01  # weight decay of AdamW
    beta2: float = 0.99  # decay rate of AdamW's second moment
    clip: float = 1.0  # max gradient norm
    init: str = ""  # agent to start from, of the same method and sizes: a folder, a bundled name or a Hub id
    seed: int = 0  # seed of the weights, the lifetimes and the batches
    split_seed: int | None = None  # seed of the train/test split, None for the published one
    precision: str = "auto"  # number format, "fp32", "bf16" or "fp16"; "auto": bf16 on CUDA, else fp32
    compile: bool = False  # whether to compile the transformer: slow to start, faster on GPUs
    eval_every: int = 250  # updates between evaluations on validation tasks once the policy is trained, 0 for never
    eval_episodes: int = 20  # episodes per lifetime in these evaluations; bandits: 1
    checkpoint_every: int = 100  # updates between the checkpoints that --resume continues from, 0 for never
    threads: int = 0  # CPU threads of PyTorch, 0 to leave them unchanged; 1 is fastest for small models

    def __post_init__(self) -> None:
        check_fields(self, LIMITS)
        check_choice("precision", self.precision, PRECISIONS)
        self.most_steps(0.0)

    @property
    def stage_lengths(self) -> tuple[int, int] | tuple[None, None]:
        """Minimum and maximum number of steps with a loss over the stages of `steps`; (None, None) for all steps."""
        if not self.steps:
            return None, None
        lengths = [number for _, number in read_stages("steps", self.steps, "steps")]
        return min(lengths), max(lengths)

    def most_steps(self, done: float) -> int | None:
        """Maximum number of steps with a loss at the training progress `done` (0 to 1); None for all steps."""
        return stage_at(read_stages("steps", self.steps, "steps"), done) if self.steps else None


PRECISIONS = {"auto": None, "fp32": "no", "bf16": "bf16", "fp16": "fp16"}
LIMITS: dict[str, tuple[float, float]] = {
    "episodes": (1, 1_000_000),
    "streams": (1, 100_000),
    "updates": (1, 10**9),
    "batch_size": (1, 1 << 20),
    "micro_batch": (1, 1 << 20),
    "labels": (0, 10**9),
    "pool": (0, 1 << 24),
    "blind": (0.0, 1.0),
    "blind_after": (1, 1_000_000),
    "postpone": (0.0, 1.0),
    "lr": (1e-30, 10.0),  # 0 would leave the weights unchanged
    "warmup": (0.0, 1.0),
    "weight_decay": (0.0, 10.0),
    "beta2": (0.0, 0.99999),
    "clip": (1e-6, 1e6),
    "seed": (0, 2**31 - 1),
    "split_seed": (0, 2**31 - 1),
    "eval_every": (0, 10**9),
    "eval_episodes": (1, 100_000),
    "checkpoint_every": (0, 10**9),
    "threads": (0, 4096),
}


PRESETS: dict[str, dict[str, Any]] = {  # by environment; "source." settings are for the default source
    # Agents overfit seven training goals: on held-out goals AD had a return of 0.2 of 5.0. With random actions in the
    # histories it has 4.1 to 4.7; IDT (0.7 and 4.2) and DPT (1.3) still overfit, so `train` warns.
    "icrl/Darkroom3x3-v0": {"updates": 300, "source.slips": 1.0},
    # A bandit's first reward says whether to pull that arm again; relative to the rewards so far it says so only once
    # two of them differ, and outliers of Gaussian rewards keep changing the unit. These rewards have a known one.
    "icrl/BernoulliBandit-v0": {"rewards": "fixed"},
    "icrl/ContextualBandit-v0": {"rewards": "fixed"},
    "icrl/GaussianBandit-v0": {"rewards": "fixed"},
    "icrl/LinearBandit-v0": {"rewards": "fixed"},
}


def preset(method: str, env_id: str, settings: dict[str, Any], fresh: bool) -> dict[str, Any]:
    """Settings of an environment that differ from the defaults; {} for an unknown id.

    In environments with one-episode lifetimes the window is a whole lifetime, unless the method has memory. Source
    settings are left out if lifetimes are not `fresh`, or if `settings` name a source or an expert.
    """
    if not is_family(env_id):  # unknown ids are refused elsewhere
        return {}
    usual = fresh and not settings.get("source") and "source.expert" not in settings
    family, found = find_family(env_id), dict(PRESETS.get(env_id, {}))
    if family.lifetime == 1:
        whole = {} if MODELS[method].has_memory else {"episodes": 1, "window": family.horizon}
        found = {"eval_episodes": 1, **whole, **found}
    known = {field.name for field in (*fields(TrainConfig), *fields(MODELS[method].Config))}
    return {name: value for name, value in found.items() if name in known or (usual and name.startswith("source."))}


OFF = (False, 0, "fp32")  # values that ask for nothing


def check_read(method: str, agent: ModelConfig, given: Mapping[str, Any]) -> None:
    """ValueError for a `given` setting, not its default, that has no effect: on this method, or with these settings."""
    usual = {item.name: item.default for item in (*fields(TrainConfig), *fields(agent))}
    idle: tuple[str, ...] = () if isinstance(agent, AgentConfig) else ("precision", "compile")  # of transformers
    idle += () if MODELS[method].acts else ("eval_every", "eval_episodes")
    unread = {**dict.fromkeys(idle, f"on {method}"), **agent.unread}
    if not {"blind", "postpone"} & given.keys():
        unread["blind_after"] = "without blind or postpone"
    for name, why in unread.items():
        if name in given and (value := given[name]) != usual[name] and value not in OFF:
            raise ValueError(f"{name}={value!r} has no effect {why}: leave it out")


ORDERED = ("changes", "late")  # source settings that put things into an order


def check_order(agent: ModelConfig, asked: Mapping[str, Any]) -> None:
    """ValueError for a setting in `asked` that puts steps into an order which the method does not keep."""
    for name, value in asked.items():
        if value and agent.reorders:
            raise ValueError(f"{name}={value} asks for the order of a lifetime, and {agent.reorders}")


def split_settings(
    method: str, env_id: str, settings: dict[str, Any], fresh: bool = True
) -> tuple[TrainConfig, Any, dict[str, Any]]:
    """Split flat settings into (training config, method config, source settings).

    Args:
        fresh: whether a source generates the lifetimes of a new run; presets of the source apply then only.

    Raises:
        ValueError: unknown name (the message suggests the nearest) or bad value.
    """
    model = pick(MODELS, method, "method")
    settings = preset(method, env_id, settings, fresh) | settings
    for_source = under("source.", settings)
    rest = {name: value for name, value in settings.items() if not name.startswith("source.")}
    of_training, of_agent = ({item.name for item in fields(kind)} for kind in (TrainConfig, model.Config))
    check_known(rest, of_training | of_agent, "setting")
    rest = as_kinds(rest, (*fields(TrainConfig), *fields(model.Config)))
    training = TrainConfig(**{name: value for name, value in rest.items() if name in of_training})
    check_labels(method, training)
    agent = model.Config(**{name: value for name, value in rest.items() if name in of_agent})
    check_histories(method, training, agent)
    check_order(agent, {"blind": training.blind, "postpone": training.postpone})
    check_order(agent, {f"source.{name}": for_source.get(name, 0) for name in ORDERED})
    if model.has_memory and "episodes" not in settings and is_family(env_id):  # lifetimes that fill a window
        training = replace(training, episodes=max(1, math.ceil(agent.span / find_family(env_id).horizon)))
    return training, agent, for_source


def check_labels(method: str, training: TrainConfig) -> None:
    """ValueError for labels that the method does not take, or a choice of labels without their number."""
    if training.labels and not MODELS[method].labelled_share:
        takers = ", ".join(sorted(name for name, model in MODELS.items() if model.labelled_share))
        raise ValueError(f"labels={training.labels} is for {takers}, not for {method}: leave it out")
    if training.labelled and not training.labels:
        raise ValueError(
            f"labelled={training.labelled!r} without a number: give labels, the number of steps to draw there"
        )


def check_histories(method: str, training: TrainConfig, agent: ModelConfig) -> None:
    """ValueError for a change of histories that the method would not see, or could not learn from."""
    model, blind = MODELS[method], training.blind
    if blind and not (issubclass(model, CodedModel) and model.reads_rewards):
        raise ValueError(f"blind={blind} hides rewards, which {method} does not read: leave it out")
    if training.renumber and not (issubclass(model, CodedModel) and model.reads_actions and not agent.of_one_model):
        raise ValueError(f"renumber=true changes the numbers of actions, which {method} does not read: leave it out")
    if blind and (learned := [name for name in ("dynamics", "return_to_go") if getattr(agent, name, False)]):
        raise ValueError(f"blind={blind} hides rewards that {learned[0]}=true learns: leave one of them out")
    if training.postpone and not model.in_context:
        raise ValueError(
            f"postpone={training.postpone} moves episodes, of which {method} sees one at a time: leave it out"
        )
