"""Compressed-context AD: the schedule of its folds; training, acting and histories go through the same ones."""

import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from icrl_envs import FAMILIES

from icrl_agents import ICAgent, collect, train
from icrl_agents.agents.planning.imagination import MethodImagination
from icrl_agents.cli.make.train import finetuning_command
from icrl_agents.core.steps import stack_steps
from icrl_agents.methods.compressed_ad import CAD, CADConfig
from icrl_agents.nn.compressor import Compressor
from icrl_agents.sources import make_source
from icrl_agents.sources.collection import lifetimes as recorded
from icrl_agents.training.config import split_settings
from icrl_agents.training.update import Updater
from tests.agents.planning.scenarios import extend
from tests.cli.test_cli import done as run_command
from tests.conftest import one_line
from tests.fakes import Variant, close, lifetimes, statistics, variants

ENV = "icrl/Darkroom3x3-v0"
CADS = [variant for variant in variants() if variant.method == "cad"]
GATES = [Variant("cad", (("gate", gate),)) for gate in Compressor.GATES]


def live(agent: CAD, steps, count: int) -> torch.Tensor:
    """Live `count` steps and look at the next one."""
    agent.reset(num_envs=3, seed=0)
    for t in range(count):
        agent.method.encode(agent.context, steps.obs[:, t])
        close(agent, steps, t)
    return agent.method.encode(agent.context, steps.obs[:, count])


class TestSchedule:
    @pytest.mark.parametrize(("window", "latents", "slide"), [(60, 16, 34), (100, 36, 44), (9, 2, 4), (30, 8, 1)])
    def test_it_is_that_of_the_specification(self, window: int, latents: int, slide: int):
        """Append step by step: capacity window - 1 before the first fold, window - latents - 1 after it."""
        agent = ICAgent(CAD(*_spaces(), CADConfig(window=window, latents=latents, slide=slide)))
        keep, recent, folds = window - latents - slide, list[int](), 0
        for step in range(12 * window):
            assert agent.method.schedule.folds(step + 1) == folds
            assert recent == list(range(agent.method.schedule.begin(folds), step))
            recent.append(step)
            if len(recent) > window - 1 - (latents if folds else 0):
                recent, folds = recent[-keep:], folds + 1
                assert step + 1 == agent.method.schedule.end(folds - 1)
        assert folds > 3

    def test_the_compressor_always_reads_as_many_vectors(self):
        agent, lengths = Variant("cad").build(), set()
        agent.method.compressor.reader.source_norm.register_forward_pre_hook(lambda _, x: lengths.add(x[0].shape[1]))
        live(agent, lifetimes(count=40), 39)
        assert agent.context.memory.folds.tolist() == [8, 8, 8]
        assert lengths == {9 - 3}  # window - keep, as at the first fold

    def test_a_curriculum_changes_what_is_trained(self):
        agent = Variant("cad", (("folds", 9), ("curriculum", "0:1 0.5:3 0.8:1000"))).build()
        steps = lifetimes(count=agent.config.span)
        for done, most in ((0.0, 1), (0.49, 1), (0.5, 3), (0.79, 3), (0.8, 9), (1.0, 9)):
            rngs = (np.random.default_rng(seed) for seed in range(60))
            seen = {
                agent.method.schedule.folds(agent.method.prepare_batch(steps, rng, done).mask.shape[1]) for rng in rngs
            }
            assert seen == set(range(1, most + 1))

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"curriculum": "0.1:2"}, "curriculum='0.1:2'"),
            ({"curriculum": "0:1 0.5:0"}, "share:folds"),
            ({"curriculum": "0:1 0.7:3 0.5:2"}, "in order"),
            ({"curriculum": "later"}, "curriculum='later'"),
            ({"curriculum": "0:1 nan:3"}, "nan"),
            ({"latents": 26}, "latents=26 and slide=34"),
            ({"gate": "open"}, "choose from gated, hard, residual, replace"),
            ({"compressor_heads": 5}, "compressor_heads=5"),
            ({"pretrain": 0.5, "reconstruction": 0.0}, "whose weight is 0"),
        ],
    )
    def test_bad_settings_are_told_in_a_line(self, changes: dict, told: str):
        with pytest.raises(ValueError) as error:
            CADConfig(**changes)
        assert told in str(error.value)
        assert "\n" not in str(error.value)


def _spaces():
    env = gymnasium.make_vec(ENV, num_envs=1)
    return env.single_observation_space, env.single_action_space


@pytest.mark.parametrize("variant", [*CADS, *GATES], ids=str)
class TestParity:
    @pytest.mark.slow
    @torch.no_grad()
    def test_acting_equals_training_over_ten_folds(self, variant: Variant):
        agent, steps = variant.build(), lifetimes(count=60)
        with torch.no_grad():
            wanted = statistics(agent.method.action.head(agent.method.hidden(agent.method.tensors(steps))[:, :, 0]))
        agent.reset(num_envs=3, seed=0)
        for t in range(60):
            found = statistics(agent.policy(agent.context, steps.obs[:, t]))
            torch.testing.assert_close(found, wanted[:, t], atol=1e-5, rtol=1e-5)
            close(agent, steps, t)
        assert agent.context.memory.folds.min() > 9

    @pytest.mark.slow
    @torch.no_grad()
    def test_a_history_is_as_good_as_having_lived_it(self, variant: Variant):
        """Of every length, and of rows with different ones."""
        agent, steps = variant.build(), lifetimes(count=40)
        hidden = agent.method.hidden(agent.method.tensors(steps))[:, :, 0]
        for lengths in (*([n] * 3 for n in range(0, 36, 5)), [3, 9, 30], [0, 20, 8], [10, 9, 11]):
            mask = np.arange(39) < np.array(lengths)[:, None]
            agent.reset(num_envs=3, seed=0, history=steps.window(0, 39)._replace(mask=mask))
            here = np.arange(3), np.array(lengths)
            found = agent.method.encode(agent.context, steps.obs[here])
            torch.testing.assert_close(found, hidden[here], atol=1e-5, rtol=1e-5)
            wanted = [agent.method.schedule.folds(n + 1) for n in lengths]
            assert agent.context.memory.folds.tolist() == wanted

    @pytest.mark.slow
    @torch.no_grad()
    def test_what_is_learned_from_is_the_same_whatever_is_not(self, variant: Variant):
        """The loss of a window skips what comes before the newest folds, and computes the rest as `hidden` does."""
        agent, steps = variant.build(), lifetimes(count=30)
        tokens = agent.method.tokens(agent.method.tensors(steps))
        whole = agent.method.hidden(agent.method.tensors(steps))
        for newest in range(1, 8):
            leads, made = agent.method.memories(tokens, newest)
            part = agent.method.hidden_after(leads, tokens, newest)
            since = Variant("cad", (("folds_with_gradient", newest),)).build().method.schedule.since(30, newest)
            torch.testing.assert_close(part[:, since:], whole[:, since:], atol=1e-6, rtol=1e-6)
            assert len(made) == min(newest, agent.method.schedule.folds(30))
            assert (since > 0) == (newest < agent.method.schedule.folds(30))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cad-darkroom", "cad-blind-darkroom", "cad-dark-key-to-door"])
@torch.no_grad()
def test_released_agents_act_as_a_replay_of_their_lives_says(name: str):
    """Log-probabilities of every step over ten folds, to 1e-5 and 1e-5 of their value."""
    agent = ICAgent.from_pretrained(f"icrl/{name}")
    env_id, count = agent.facts["env_id"], agent.method.schedule.end(10) + 1
    source, horizon = make_source("posterior", env_id), FAMILIES[env_id].rules.horizon
    steps = recorded(env_id, source, FAMILIES[env_id].ids[:3], -(-count // horizon), 0).window(0, count)
    window = agent.method.tensors(steps)
    replayed = statistics(agent.method.action_distribution(agent.method.hidden(window)[:, :, 0], window.static))
    agent.reset(num_envs=3, seed=0)
    for t in range(count):
        acting = statistics(agent.policy(agent.context, steps.obs[:, t]))
        torch.testing.assert_close(acting, replayed[:, t], atol=1e-5, rtol=1e-5)
        close(agent, steps, t)
    assert agent.context.memory.folds.tolist() == [11] * 3


def test_dropout_reaches_the_compressor_and_the_decoder():
    agent = Variant("cad", (("dropout", 0.25),)).build()
    for blocks in (agent.method.compressor.reader.blocks, agent.method.decoder.blocks):
        assert {block.dropout for block in blocks} == {0.25}


@torch.no_grad()
def test_padding_that_was_folded_is_not_learned_from():
    """A fold that a history does not fill never happens in acting; whatever stands there, the loss is the same."""
    agent, steps = Variant("cad").build(), lifetimes(count=24)
    steps = steps._replace(mask=np.arange(24) < np.array([24, 24, 12])[:, None])
    changed = steps.map(np.copy)
    for name in ("obs", "prev_obs"):
        getattr(changed, name)[2, 12:] = 0
    assert (changed.obs != steps.obs).any()
    one, other = (agent.method.loss(agent.method.tensors(each)) for each in (steps, changed))
    assert one["rebuilt_obs"] > 0
    torch.testing.assert_close(one, other, atol=0, rtol=0)


class TestMemory:
    @torch.no_grad()
    def test_latents_read_what_was_folded_and_nothing_else(self):
        agent, steps = Variant("cad").build(), lifetimes(count=16)
        tokens = agent.method.tokens(agent.method.tensors(steps))
        made = list(agent.method.memories(tokens, 16)[1].items())
        (span, first), (_, second) = made[:2]
        for place in range(14):
            other = tokens.clone()
            other[:, place] += 1
            changed = list(agent.method.memories(other, 16)[1].values())
            assert torch.equal(changed[0], first) == (place >= span[1])
            assert torch.equal(changed[1], second) == (place >= made[1][0][1])

    @torch.no_grad()
    def test_what_was_folded_long_ago_still_matters(self):
        """An action depends on steps that left the window many folds before; AD's with the same window does not."""
        for variant, matters in ((Variant("cad"), True), (Variant("ad", (("rewards", "fixed"),)), False)):
            agent, steps = variant.build(), lifetimes(count=31)
            actions = []
            for first_reward in (steps.reward[:, :1], 1 + steps.reward[:, :1]):
                reward = np.concatenate([first_reward, steps.reward[:, 1:]], 1)
                actions.append(live(agent, steps._replace(reward=reward), 30))
            assert ((actions[0] - actions[1]).abs().amax(1) > 1e-6).tolist() == [matters] * 3

    @torch.no_grad()
    def test_interventions_on_latents_show(self):
        """They are plain state: zeroing or swapping them between rows changes the next actions."""
        agent, steps = Variant("cad").build(), lifetimes(count=20)
        found = []
        for change in (lambda z: z, torch.zeros_like, lambda z: z.roll(1, 0)):
            live(agent, steps, 14)
            context = agent.context.select(np.arange(3))
            agent.method.replace_latents(context, change(context.memory.latents.clone()))
            found.append(agent.method.encode(context, steps.obs[:, 14]))
        for other in found[1:]:
            assert (found[0] - other).abs().amax(1).min() > 1e-3

    def test_the_newest_folds_learn_from_actions_and_older_ones_do_not(self):
        agent = Variant("cad", (("folds", 6), ("reconstruction", 0.0))).build()
        steps = agent.method.tensors(lifetimes(count=agent.method.schedule.end(6)))
        made = []
        fold = agent.method.fold

        def spy(old, tokens):
            made.append(fold(old, tokens))
            if made[-1].requires_grad:
                made[-1].retain_grad()
            return made[-1]

        agent.method.fold = spy
        agent.method.loss(steps)["action"].backward()
        assert [z.grad is not None and bool(z.grad.abs().sum() > 0) for z in made] == [False] * 4 + [True] * 2
        assert all(p.grad.abs().sum() > 0 for p in agent.method.compressor.parameters())

    @pytest.mark.slow
    @torch.no_grad()
    def test_a_long_life_needs_no_more_memory(self):
        agent, steps = Variant("cad").build(), lifetimes(count=20)
        agent.reset(num_envs=3, seed=0)
        sizes = set()
        for t in range(400):
            agent.act(steps.obs[:, t % 20])
            memory = agent.context.memory
            assert memory.cache.lengths.max() <= 9
            sizes.add((memory.cache.keys.nbytes, memory.latents.nbytes, agent.context.steps.obs.nbytes))
            agent.observe(
                steps.next_obs[:, t % 20],
                *(x[:, t % 20] for x in (steps.reward, steps.terminated, steps.truncated)),
                {},
            )
        assert len(sizes) == 1
        assert memory.latents.isfinite().all()

    @torch.no_grad()
    def test_reset_of_a_row_forgets_its_latents(self):
        agent, steps = Variant("cad").build(), lifetimes(count=30)
        live(agent, steps, 15)
        agent.reset(mask=np.array([False, True, False]))
        memory = agent.context.memory
        assert memory.folds.tolist() == [2, 0, 2]
        assert memory.latents[1].abs().sum() == 0
        found = agent.method.encode(agent.context, steps.obs[:, 3])[1]
        agent.reset(num_envs=3)
        torch.testing.assert_close(found, agent.method.encode(agent.context, steps.obs[:, 3])[1])


@pytest.mark.parametrize("prev_obs", [False, True])
@torch.no_grad()
def test_imagined_steps_stand_behind_the_latents_and_their_step_before(prev_obs: bool):
    agent = Variant("cad", (("dynamics", True), ("prev_obs", prev_obs))).build()
    steps = lifetimes(count=13)
    hidden, context = live(agent, steps, 11), agent.context
    cache, _ = agent.method.branch(context)
    dream = MethodImagination(agent.method, context)
    branch = dream.root(cache, hidden)
    action, none = dream.propose(branch, 2).action, torch.zeros(3, 1, dtype=torch.long)
    outcome, imagined = dream.imagine(branch, action)
    seen, taken = agent.method.tensors(steps.window(0, 12)), action[:, 0, 0]
    reward, _ = agent.method.outcomes(agent.method.hidden(seen)[:, 11, 0], taken)
    torch.testing.assert_close(outcome.expected[:, 0, 0], reward.mode(), atol=1e-5, rtol=1e-5)

    longer = extend(seen, taken, outcome.reward[:, 0, 0], outcome.next_obs[:, 0, 0])
    trained = agent.method.hidden(longer)[:, 12, 0]
    torch.testing.assert_close(dream.follow(imagined, none, none).hidden[:, 0], trained, atol=1e-5, rtol=1e-5)


@contextmanager
def interrupted(after: int):
    """Ctrl-C after so many updates."""
    update = Updater.update

    def stopping(self, batch, number, *rest):
        if number == after:
            raise KeyboardInterrupt
        return update(self, batch, number, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Updater, "update", stopping)
        yield


FAST = {"width": 16, "layers": 1, "heads": 2, "inner": 24, "window": 12, "slide": 5, "latents": 4, "folds": 3,
        "compressor_heads": 2, "episodes": 5, "batch_size": 8, "eval_every": 0, "checkpoint_every": 0}  # fmt: skip


def fit(out, **changes):
    return train("cad", ENV, out, settings={**FAST, **changes}, device="cpu", quiet=True)


class TestStages:
    def test_pretraining_leaves_the_policy_alone(self, tmp_path):
        agent, steps = Variant("cad", (("pretrain", 0.5),)).build(), lifetimes(count=30)
        for done, acts in ((0.0, False), (0.49, False), (0.5, True), (1.0, True)):
            batch = agent.method.tensors(agent.method.prepare_batch(steps, np.random.default_rng(0), done))
            terms = agent.method.loss(batch)
            assert ("action" in terms) == acts == agent.method.trains_policy(done)
            assert all(value > 0 for value in terms.values())

    @pytest.mark.slow
    def test_what_is_not_pretrained_stays_as_it_was(self, tmp_path):
        """Not even its weights decay; and nobody asks how well it acts."""
        settings = {"updates": 4, "pretrain": 1.0, "weight_decay": 5.0, "eval_every": 2, "seed": 3}
        agent = fit(tmp_path / "1", **settings)
        torch.manual_seed(3)
        fresh = ICAgent(CAD(agent.observation_space, agent.action_space, agent.config))
        moved = {n.split(".")[0] for n, w in fresh.state_dict().items() if not torch.equal(w, agent.state_dict()[n])}
        assert {"compressor", "decoder", "begins"} <= moved
        assert not {"body", "latent"} & moved
        assert "validation_return" not in (tmp_path / "1/metrics.jsonl").read_text()
        fit(tmp_path / "2", **{**settings, "pretrain": 0.5})
        rows = (tmp_path / "2/metrics.jsonl").read_text().splitlines()
        assert ["validation_return" in row for row in rows] == [False, False, False, True]

    @pytest.mark.slow
    def test_a_finetuning_begins_with_what_was_pretrained(self, tmp_path):
        first = fit(tmp_path / "1", updates=3, pretrain=1.0)
        begun = fit(tmp_path / "2", updates=1, lr=1e-30, init=str(tmp_path / "1"), seed=5)
        for name, weight in first.state_dict().items():
            torch.testing.assert_close(weight, begun.state_dict()[name], msg=name)

    def test_what_goes_on_is_told_with_all_that_was_given(self):
        begin = "icrl-agents train cad --env X --config r.toml"
        told = f"{begin} --set pretrain=1 --set window=9 --stage=pretrain -o a --overwrite"
        want = f"{begin} --set window=9 --set pretrain=0 --init b/a -o b/a-finetuned"
        assert finetuning_command(told, Path("b/a")) == want
        assert finetuning_command(told.replace("--stage=", "--set=pretrain=1 --init c --stage "), Path("b/a")) == want
        assert finetuning_command("icrl_agents.train(...)", Path("a")) == "go on with init='a' and pretrain=0"

    def test_trainings_that_end_before_actions_are_refused(self, tmp_path):
        one_line(lambda: fit(tmp_path / "1", updates=2, pretrain=0.6), ValueError, "updates=2", "pretrain")
        assert not (tmp_path / "1" / "train.json").exists()
        fit(tmp_path / "2", updates=2, pretrain=0.5)
        assert '"action"' in (tmp_path / "2" / "metrics.jsonl").read_text().splitlines()[-1]

    @pytest.mark.slow
    def test_the_commands_of_both_stages(self, tmp_path):
        sizes = [word for name, value in FAST.items() for word in ("--set", f"{name}={value}")]
        words = ("train", "cad", "--env", ENV, *sizes, "--updates", 2)
        assert f"init='{tmp_path / '1'}'" in run_command(*words, "--stage", "pretrain", "-o", tmp_path / "1")
        run_command(*words, "--stage", "finetune", "--init", tmp_path / "1", "-o", tmp_path / "2")
        first, second = (
            [json.loads(row) for row in (tmp_path / n / "metrics.jsonl").read_text().splitlines()] for n in "12"
        )
        assert ["action" in row for row in first + second] == [False, False, True, True]
        assert second[0]["rebuilt_obs"] < first[0]["rebuilt_obs"]  # it goes on where the other ended
        assert "has not learned to act" in (tmp_path / "1" / "README.md").read_text()
        assert "has not learned to act" not in (tmp_path / "2" / "README.md").read_text()
        facts = json.loads((tmp_path / "2" / "config.json").read_text())["facts"]
        assert facts["train"]["init"] == str(tmp_path / "1")

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("changes", "told"),
        [({"width": 32}, "other sizes"), ({"heads": 1}, "heads=2, not 1"), ({"init": "icrl/ad-darkroom"}, "not cad")],
    )
    def test_a_wrong_beginning_is_told_in_a_line(self, tmp_path, changes: dict, told: str):
        fit(tmp_path / "1", updates=1)
        settings = {"updates": 1, "init": str(tmp_path / "1"), **changes}
        one_line(lambda: fit(tmp_path / "2", **settings), ValueError, told)

    def test_a_beginning_in_other_spaces_is_refused(self, tmp_path):
        fit(tmp_path / "1", updates=1)
        settings = {**FAST, "updates": 1, "init": str(tmp_path / "1")}
        run = lambda: train("cad", "icrl/Darkroom-v0", tmp_path / "2", settings=settings, device="cpu", quiet=True)  # noqa: E731
        one_line(run, ValueError, "init=")

    @pytest.mark.slow
    def test_resuming_needs_its_beginning_no_more(self, tmp_path):
        fit(tmp_path / "1", updates=1)
        settings = {"updates": 4, "init": str(tmp_path / "1"), "checkpoint_every": 2}
        whole = fit(tmp_path / "2", **settings)
        stop = tmp_path / "3"
        with pytest.raises(KeyboardInterrupt), interrupted(after=3):
            fit(stop, **settings)
        shutil.rmtree(tmp_path / "1")
        resumed = train("cad", ENV, stop, device="cpu", quiet=True, resume=True)
        assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())

    @pytest.mark.slow
    def test_reconstruction_is_learned(self, tmp_path):
        """The latents come to tell the raw fields of what was folded, weighted where a reward was seen."""
        fit(tmp_path / "1", updates=120, pretrain=1.0, reconstruction=1.0, lr=5e-3, **{"source.slips": 0.0})
        rows = [json.loads(line) for line in (tmp_path / "1/metrics.jsonl").read_text().splitlines()]
        for name in ("rebuilt_obs", "rebuilt_action"):
            assert rows[-1][name] < 0.6 * rows[0][name]

    def test_rewards_weigh_more(self):
        steps = lifetimes(count=20)
        losses = []
        for weight in (1.0, 5.0):
            agent = Variant("cad", (("reward_weight", weight),)).build()
            made = agent.method.memories(agent.method.tokens(agent.method.tensors(steps)), 9)[1]
            count = torch.tensor(10)
            zero = agent.method.tensors(steps._replace(prev_reward=np.zeros_like(steps.prev_reward)))
            losses.append(
                [agent.method.reconstruction_terms(made, s, count) for s in (zero, agent.method.tensors(steps))]
            )
        for name in losses[0][0]:
            torch.testing.assert_close(losses[0][0][name], losses[1][0][name])
            assert losses[1][1][name] > 3 * losses[0][1][name]  # nearly every step of the fakes is rewarded

    @pytest.mark.slow
    @pytest.mark.parametrize("gate", Compressor.GATES)
    def test_half_precision(self, tmp_path, gate: str):
        fit(tmp_path / gate, updates=2, precision="bf16", gate=gate)

    def test_histories_shorter_than_the_folds(self, tmp_path):
        """What is drawn is what they have."""
        agent = Variant("cad", (("folds", 9), ("curriculum", "0:1000"))).build()
        steps = lifetimes(count=agent.config.span)
        steps.mask[:, 15:] = False
        for seed in range(20):
            batch = agent.method.prepare_batch(steps, np.random.default_rng(seed))
            assert agent.method.schedule.folds(batch.mask.shape[1]) in (1, 2)
            assert agent.method.loss_weight(batch) > 0
        steps.mask[:, 5:] = False
        assert agent.method.loss_weight(agent.method.prepare_batch(steps, np.random.default_rng(0))) == 15

    def test_short_histories_count_beside_long_ones(self):
        """Batches have the folds of some of their rows, not of the longest one alone."""
        agent = Variant("cad", (("folds", 9), ("curriculum", "0:1000"), ("folds_with_gradient", 1))).build()
        steps = lifetimes(count=agent.config.span)
        steps.mask[:] = np.arange(agent.config.span) < np.array([10, 14, agent.config.span])[:, None]
        counts = [agent.method.prepare_batch(steps, np.random.default_rng(seed)) for seed in range(40)]
        of_all = [(batch.mask[:, agent.method.since(batch) :].sum(1) > 0).all() for batch in counts]
        assert 0.2 < np.mean(of_all) < 0.9

    def test_lifetimes_that_are_never_folded_are_refused(self, tmp_path):
        line = "lifetimes of 6 steps fit into window=", "nothing would be folded", "episodes="
        one_line(lambda: fit(tmp_path / "1", episodes=1), ValueError, *line)
        assert not (tmp_path / "1" / "train.json").exists()
        path = collect(ENV, "noise", tmp_path / "h.h5", streams=1, episodes=1)
        settings = {name: value for name, value in FAST.items() if name != "episodes"}
        short = lambda: train("cad", ENV, tmp_path / "1", settings=settings, histories=path, device="cpu", quiet=True)  # noqa: E731
        one_line(short, ValueError, *line)

    @pytest.mark.slow
    @pytest.mark.parametrize("changes", [{"steps": "0:8"}, {"steps": "0:8 0.5:30", "pretrain": 0.5}])
    def test_beginnings_that_are_never_folded_are_refused(self, tmp_path, changes: dict):
        one_line(lambda: fit(tmp_path / "1", **changes), ValueError, "lifetimes of 8 steps", "steps=...")
        fit(tmp_path / "2", updates=2, steps="0:8 0.5:30")

    @pytest.mark.parametrize(("env_id", "episodes"), [(ENV, 78), ("icrl/Darkroom-v0", 24), ("icrl/LinearBandit-v0", 3)])
    def test_lifetimes_are_as_long_as_its_windows_by_default(self, env_id: str, episodes: int):
        config, agent, _ = split_settings("cad", env_id, {})
        assert (config.episodes, agent.window) == (episodes, 60)
        assert split_settings("cad", env_id, {"episodes": 7})[0].episodes == 7
        assert split_settings("ad", "icrl/Darkroom-v0", {})[0].episodes == 12


@torch.no_grad()
def test_the_first_token_of_an_episode_tells_where_the_last_one_ended():
    """Its last reward is seen in the next one, and without prev_obs nothing there says what it was for."""
    steps = lifetimes(rows=2, count=12)
    other = steps.obs.copy()
    other[:, 4] = (other[:, 4] + 1) % 9
    moved = stack_steps(other, steps.action, steps.reward, steps.next_obs, steps.terminated, steps.truncated)
    for told in (False, True):
        method = Variant("cad", (("prev_obs", told),)).build().method
        tokens = [method.tokens(method.tensors(one)) for one in (steps, moved)]
        assert torch.equal(tokens[0][:, 5], tokens[1][:, 5]) != told
        assert torch.equal(tokens[0][:, 6:], tokens[1][:, 6:])
