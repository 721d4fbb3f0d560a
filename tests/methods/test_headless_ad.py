"""Headless-AD: vectors drawn anew, sets of any size, and no action outside them."""

import itertools

import gymnasium
import numpy as np
import pytest
import torch
from icrl_envs import FAMILIES

from icrl_agents.agents.agent import ICAgent
from icrl_agents.core.action_masks import check_legal
from icrl_agents.core.env_actions import legal_actions
from icrl_agents.evaluation.evaluate import RandomLearner
from icrl_agents.histories.store import HistoryStore
from icrl_agents.methods import METHODS
from icrl_agents.nn.codecs.action_vectors import draw_vectors
from icrl_agents.nn.votes import Votes
from icrl_agents.sources import collection, make_source
from icrl_agents.sources.collection import collect
from icrl_agents.training.loop import train
from icrl_agents.training.windows import FreshWindows, StoreWindows, WindowSpec
from tests.conftest import one_line
from tests.fakes import Variant, close, lifetimes, statistics

ENV = "icrl/BernoulliBandit-v0"
MASK = np.array([[1, 1, 1, 1, 0, 1, 0], [0, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1]], bool)  # of 7 actions, not 5
HEADLESS = [
    Variant("headless-ad", tuple(settings.items()))
    for settings in (
        {},
        {"prompt": False},
        {"votes": False},
        {"objective": "mse", "votes": False},
        {"objective": "mse", "votes": False, "choice": "mode"},
        {"vectors": "normal"},
        {"acting_temperature": 0.5},
        {"illegal": "zero", "votes": False},
        {"illegal": "zero", "votes": False, "prompt": False},
        {"similarity": "cosine"},
    )
]


def loud(agent):
    """Votes that matter: they begin small."""
    if agent.method.votes is not None:
        torch.nn.init.normal_(agent.method.votes.ask.weight, generator=torch.Generator().manual_seed(0))


class TestVotes:
    @torch.no_grad()
    def test_each_token_in_sight_speaks_for_its_own_action(self):
        votes, generator = Votes(6), torch.Generator().manual_seed(0)
        query, tokens = torch.randn(2, 3, 6, generator=generator), torch.randn(2, 5, 6, generator=generator)
        action = torch.tensor([[0, 3, -1, 3, 1], [2, 2, 2, -1, 0]])
        seen = torch.rand(2, 3, 5, generator=generator) < 0.6
        wanted = torch.zeros(2, 3, 4)
        for b, q, i in itertools.product(range(2), range(3), range(5)):
            if seen[b, q, i] and action[b, i] >= 0:
                wanted[b, q, action[b, i]] += votes.ask(query[b, q]) @ tokens[b, i] / 6**0.5
        torch.testing.assert_close(votes(query, tokens, action, seen, 4), wanted)

    @torch.no_grad()
    def test_the_last_action_and_the_prompt_are_spoken_for_at_once(self):
        """The token of a step is about the action before it; before a lifetime's first step there was none."""
        agent, steps = Variant("headless-ad").build(), lifetimes(count=4)
        steps = steps._replace(static=agent.method.draw_static(3, None, np.random.default_rng(0)))
        told = agent.method.told(
            *(torch.as_tensor(x) for x in (steps.prev_action, steps.start)), agent.method.static_tensors(steps)
        )
        assert (told[:, :5].sort().values == torch.arange(5)).all()
        assert (told[:, 5] == -1).all()
        assert (told[:, 6:] == torch.as_tensor(steps.action[:, :3])).all()

    def test_a_set_may_grow_in_mid_life(self):
        """Rows of few actions and a long life beside one of all actions and a new one, up to a full window."""
        agent, steps = Variant("headless-ad").build(), lifetimes(count=30)
        few = MASK & (np.arange(7) < 2)
        agent.reset(num_envs=3, action_set=few, seed=0)
        for t in range(30):
            if t == 7:
                new = np.array([False, True, False])
                agent.reset(mask=new, action_set=np.where(new[:, None], True, few))
            agent.policy(agent.context, steps.obs[:, t])
            close(agent, steps, t)

    def test_actions_may_be_of_any_integer_type(self):
        space = gymnasium.spaces.Discrete(5, dtype=np.uint8)
        agent = ICAgent(METHODS["headless-ad"](gymnasium.spaces.Discrete(3), space)).eval()
        agent.reset()
        for _ in range(3):
            assert space.contains(agent.act(0))
            agent.observe(0, 1.0, False, False)

    @pytest.mark.parametrize("votes", [False, True])
    def test_only_votes_keep_what_became_of_tokens(self, votes: bool):
        agent = Variant("headless-ad", (("votes", votes),)).build()
        agent.reset(num_envs=3)
        assert (agent.context.memory.outputs is not None) == votes


class TestVectors:
    def test_no_more_than_their_size_are_orthonormal(self):
        vectors = draw_vectors(4, 6, 8, np.random.default_rng(0))
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(vectors @ vectors.swapaxes(1, 2), np.tile(np.eye(6), (4, 1, 1)), atol=1e-6)
        assert abs(vectors[0] - vectors[1]).max() > 0.1

    def test_more_than_that_have_several_bases(self):
        vectors = draw_vectors(2, 19, 8, np.random.default_rng(0))
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, atol=1e-5)
        products = vectors @ vectors.swapaxes(1, 2)
        for block in (slice(0, 8), slice(8, 16), slice(16, 19)):
            np.testing.assert_allclose(
                products[:, block, block], np.tile(np.eye(19)[block, block], (2, 1, 1)), atol=1e-6
            )
        assert abs(products[:, :8, 8:16]).max() < 1

    def test_no_direction_is_preferred(self):
        vectors = draw_vectors(4000, 2, 3, np.random.default_rng(0))
        np.testing.assert_allclose(vectors.mean(0), 0, atol=0.03)
        np.testing.assert_allclose((vectors**2).mean(0), 1 / 3, atol=0.02)

    def test_normal_ones_are_not_of_one_length(self):
        vectors = draw_vectors(500, 4, 8, np.random.default_rng(0), normal=True)
        assert np.std(np.linalg.norm(vectors, axis=-1)) > 0.5
        assert np.std(vectors) == pytest.approx(1, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("slide", [1, 4])
@pytest.mark.parametrize("variant", HEADLESS, ids=str)
@torch.no_grad()
def test_acting_equals_training_in_sets_of_any_size(variant: Variant, slide: int):
    """Rows with different numbers of actions, others than in training; the prompt stays when the window slides."""
    agent, steps = variant.build(slide=slide), lifetimes(count=30)
    loud(agent)
    agent.reset(num_envs=3, action_set=MASK, seed=0)
    for t in range(30):
        acting = statistics(agent.policy(agent.context, steps.obs[:, t]))
        assert acting.exp()[torch.as_tensor(~MASK)].max() == 0
        seen = int(agent.context.length[0])
        window = agent.method.tensors(steps.window(t - seen, t + 1)._replace(static=agent.context.steps.static))
        hidden = agent.method.read(window, torch.full((3,), seen))
        training = statistics(agent.method.action_distribution(hidden, window.static))
        assert torch.equal(training.isinf(), acting.isinf())
        torch.testing.assert_close(acting.exp(), training.exp(), atol=1e-5, rtol=1e-5)
        close(agent, steps, t)


@torch.no_grad()
def test_illegal_actions_may_stay_as_zeros():
    """As published: they are in the prompt, and in the loss's softmax with logits of 0; no policy takes them."""
    agent, steps = Variant("headless-ad", (("illegal", "zero"), ("votes", False))).build(), lifetimes(count=9)
    given = agent.method.draw_static(3, MASK, np.random.default_rng(0))
    assert (given["action_vectors"][~MASK] == 0).all()
    np.testing.assert_allclose(np.linalg.norm(given["action_vectors"][MASK], axis=-1), 1, rtol=1e-5)
    window = agent.method.tensors(steps._replace(static=given))
    assert agent.method.prompt(window.static)[1].tolist() == [7, 7, 7]
    scores = agent.method.hidden(window)[:, :, 0]
    assert (scores.masked_fill(torch.as_tensor(MASK)[:, None], 0) == 0).all()
    action = torch.as_tensor(steps.action)
    whole = scores.logsumexp(-1) - scores.gather(-1, action[..., None])[..., 0]
    torch.testing.assert_close(agent.method.loss(window)["action"], whole[window.mask].mean())
    few, many = (agent.method.draw_static(1, mask, np.random.default_rng(0)) for mask in (MASK[1:2, :3], MASK[1:2, :5]))
    assert few["action_mask"].shape == many["action_mask"].shape == (1, 5)  # however a set is told
    policy = agent.method.action_distribution(agent.method.hidden(window), window.static).logits.exp()[:, -1, 0]
    assert policy[torch.as_tensor(~MASK)].max() == 0


@torch.no_grad()
def test_cosine_similarity_forgets_how_long_the_output_is():
    agent, steps = Variant("headless-ad", (("similarity", "cosine"), ("votes", False))).build(), lifetimes(count=9)
    window = agent.method.tensors(steps._replace(static=agent.method.draw_static(3, MASK, np.random.default_rng(0))))
    scores = agent.method.hidden(window)
    assert abs(scores).max() <= 1
    for parameter in agent.method.action.output.parameters():
        parameter *= 7
    torch.testing.assert_close(agent.method.hidden(window), scores)


@pytest.mark.slow
@pytest.mark.parametrize("variant", HEADLESS, ids=str)
@torch.no_grad()
def test_a_row_is_the_same_alone(variant: Variant):
    """However many actions other rows have: their longer prompts are no padding of its own."""
    agent, alone, steps = (*(variant.build() for _ in range(2)), lifetimes(count=12))
    agent.reset(num_envs=3, action_set=MASK, seed=0)
    alone.reset(num_envs=1, action_set=MASK[1:2], seed=0)
    for name, value in agent.context.steps.static.items():
        alone.context.steps.static[name] = value[1:2]
    for t in range(12):
        both = statistics(agent.policy(agent.context, steps.obs[:, t]))[1]
        torch.testing.assert_close(both, statistics(alone.policy(alone.context, steps.obs[1:2, t]))[0])
        close(agent, steps, t)
        close(alone, steps.rows(slice(1, 2)), t)
    window = agent.method.tensors(steps._replace(static=agent.context.steps.static))
    torch.testing.assert_close(agent.method.hidden(window.rows(slice(1, 2)))[0], agent.method.hidden(window)[1])


@torch.no_grad()
def test_another_order_of_the_actions_orders_the_policy_alike():
    agent, steps = Variant("headless-ad").build(), lifetimes(count=9)
    order = np.array([3, 0, 4, 2, 1])  # the new name of each action
    given = agent.method.draw_static(3, None, np.random.default_rng(0))
    renamed = {
        "action_mask": given["action_mask"],
        "action_vectors": given["action_vectors"][:, np.argsort(order)],
        "prompt_order": order[given["prompt_order"]],
    }
    policies = []
    for actions, known in ((steps, given), (steps._replace(prev_action=order[steps.prev_action]), renamed)):
        window = agent.method.tensors(actions._replace(static=known))
        policies.append(
            statistics(agent.method.action_distribution(agent.method.hidden(window)[:, :, 0], window.static))
        )
    torch.testing.assert_close(policies[0], policies[1][..., order])


@torch.no_grad()
def test_before_a_lifetime_no_action_was_taken():
    """Steps hold action 0 and reward 0 there, which the model must not mistake for experience."""
    agent, steps = Variant("headless-ad").build(), lifetimes(count=3)
    steps = steps._replace(static=agent.method.draw_static(3, None, np.random.default_rng(0)))
    changed = steps.map(np.copy)
    changed.prev_action[:, 0], changed.prev_reward[:, 0] = 3, 7.0
    assert torch.equal(
        agent.method.tokens(agent.method.tensors(steps)), agent.method.tokens(agent.method.tensors(changed))
    )
    changed.prev_action[:, 1] = (steps.prev_action[:, 1] + 1) % 5
    assert not torch.equal(
        agent.method.tokens(agent.method.tensors(steps)), agent.method.tokens(agent.method.tensors(changed))
    )


class TestTraining:
    def test_each_sequence_has_vectors_of_its_own(self):
        steps = lifetimes(count=9)
        drawn = {}
        for name in ("sequence", "batch"):
            agent = Variant("headless-ad", (("drawn", name),)).build()
            drawn[name] = agent.method.prepare_batch(steps, np.random.default_rng(0)).static["action_vectors"]
        assert abs(drawn["sequence"][0] - drawn["sequence"][1]).max() > 0.1
        assert (drawn["batch"] == drawn["batch"][:1]).all()

    @torch.no_grad()
    def test_illegal_actions_are_no_alternatives(self):
        """With nothing to choose by, the loss is the log of the number of legal actions."""
        agent, steps = Variant("headless-ad", (("votes", False),)).build(), lifetimes(count=9)
        torch.nn.init.zeros_(agent.method.action.output.weight)
        torch.nn.init.zeros_(agent.method.action.output.bias)
        mask = np.arange(7) < 5
        batch = agent.method.prepare_batch(
            steps._replace(static={"action_mask": np.tile(mask, (3, 1))}), np.random.default_rng(0)
        )
        assert agent.method.loss(agent.method.tensors(batch))["action"].item() == pytest.approx(np.log(5), abs=1e-5)

    @torch.no_grad()
    def test_the_squared_error_leads_to_the_nearest_vector(self):
        settings = ("objective", "mse"), ("vectors", "normal"), ("votes", False)
        agent, steps = Variant("headless-ad", settings).build(), lifetimes(count=4)
        steps = agent.method.tensors(agent.method.prepare_batch(steps, np.random.default_rng(0)))
        outputs, place = agent.method.outputs(steps)
        out = agent.method.action.head(outputs.take_along_dim(place[..., None], 1)).mean
        distance = (out[:, :, None] - steps.static["action_vectors"][:, None]).square().sum(-1) / 2
        choices = agent.method.action_distribution(agent.method.hidden(steps)[:, :, 0], steps.static)
        torch.testing.assert_close(choices.logits, (-distance).log_softmax(-1))

    @torch.no_grad()
    def test_the_acting_temperature_sharpens(self):
        plain, sharp = (Variant("headless-ad", (("acting_temperature", x),)).build() for x in (1.0, 0.5))
        given = {k: torch.as_tensor(v) for k, v in plain.method.draw_static(3, None, np.random.default_rng(0)).items()}
        scores = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(sharp.method.action_distribution(scores, given).logits, (2 * scores).log_softmax(-1))

    @torch.no_grad()
    def test_the_mode_is_the_best_legal_action(self):
        agent = Variant("headless-ad", (("choice", "mode"), ("objective", "mse"), ("votes", False))).build()
        given = agent.method.draw_static(40, np.arange(5) < np.array([2, 5] * 20)[:, None], np.random.default_rng(0))
        given = {name: torch.as_tensor(value) for name, value in given.items()}
        meant = torch.arange(40) % 2 + torch.arange(40) % 4 // 3 * 3  # 0 or, of five, 1 or 4
        wanted = given["action_vectors"][torch.arange(40), meant]
        agent.method.action.output = torch.nn.Identity()
        scores = agent.method.scores(wanted[:, None], None, torch.zeros(40, 1), torch.zeros(40, 1), given)[:, 0]
        scores[0, 4] = 100.0  # not legal there
        choices = agent.method.action_distribution(scores, given)
        assert torch.equal(choices.sample(), meant)
        assert torch.equal(choices.log_prob(meant), torch.zeros(40))

    def test_the_legal_actions_share_a_basis_whatever_their_numbers(self):
        agent = Variant("headless-ad", (("vector_size", 4),)).build()
        mask = np.isin(np.arange(30), [0, 7, 15, 29])[None]
        vectors = agent.method.draw_static(1, mask, np.random.default_rng(0))["action_vectors"][0, mask[0]]
        np.testing.assert_allclose(vectors @ vectors.T, np.eye(4), atol=1e-6)

    def test_the_prompt_has_the_legal_actions_first_in_an_order_of_its_own(self):
        agent, mask = Variant("headless-ad").build(), np.tile(np.arange(40) % 2 == 0, (3, 1))
        order = agent.method.draw_static(3, mask, np.random.default_rng(0))["prompt_order"][:, :20]
        assert (np.sort(order) == np.arange(0, 40, 2)).all()
        assert (order != np.sort(order)).any(1).all()
        assert (order[0] != order[1]).any()

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["noise", "thompson", "uniform"])
    def test_sources_keep_to_the_sets(self, name: str):
        check_legal(FreshWindows(ENV, make_source(name, ENV), range(8), 2, WindowSpec(600, 8, 0), chunk=8).batch(0))

    def test_random_play_keeps_to_the_sets(self):
        env = gymnasium.make_vec(ENV, num_envs=4)
        env.reset(seed=0)
        learner, legal = RandomLearner(), legal_actions(env)
        learner.reset(env, seed=0)
        seen = np.stack([learner.act(None) for _ in range(200)])
        assert legal[np.arange(4), seen].all()
        assert [len(set(column)) for column in seen.T] == legal.sum(1).tolist()

    def test_fresh_lifetimes_bring_their_action_sets(self):
        windows = FreshWindows(ENV, make_source("thompson", ENV), range(8), 1, WindowSpec(20, 4, 0), chunk=8)
        batch = windows.batch(1)
        mask = batch.static["action_mask"]
        assert mask.shape == (4, 50)
        assert set(mask.sum(1)) <= set(range(4, 21))
        assert mask[np.arange(4)[:, None], batch.action].all()

    def test_all_actions_are_told_where_other_tasks_have_fewer(self, tmp_path, monkeypatch):
        """A block of tasks with all actions has no masks; a batch mixes it with others."""
        monkeypatch.setattr(collection, "ROWS", 2)
        macro = "icrl/DarkroomMacro-v0"
        tasks = [int(FAMILIES[macro].named(name).ids[0]) for name in ("train_train", "all_train")]
        path = collect(macro, "noise", tmp_path / "h.h5", tasks=tasks, streams=2, episodes=2)
        with HistoryStore(path) as store:
            batch = StoreWindows(store, tasks, WindowSpec(8, 32, 0)).batch(0)
        assert set(batch.static["action_mask"].sum(1)) == {50, 125}

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "ablation",
        [
            {"prompt": False},
            {"votes": False},
            {"vectors": "normal"},
            {"drawn": "batch"},
            {"objective": "mse", "votes": False, "choice": "mode"},
        ],
        ids=str,
    )
    def test_ablations_train_are_saved_and_act(self, tmp_path, ablation):
        quick = {"updates": 2, "batch_size": 4, "width": 16, "heads": 2, "layers": 1, "inner": 16, "vector_size": 8}
        settings = {**quick, "window": 12, "slide": 5, "eval_every": 0, **ablation}
        train("headless-ad", ENV, tmp_path / "run", settings=settings, quiet=True)
        env, tasks = gymnasium.make_vec(ENV, num_envs=3), FAMILIES[ENV].named("num_20").ids[:3]
        lives = []
        for _ in range(2):
            agent = ICAgent.from_pretrained(tmp_path / "run")
            assert {name: getattr(agent.config, name) for name in ablation} == ablation
            obs, _ = env.reset(seed=0, options={"task": tasks})
            agent.reset(env, seed=0)
            lives.append([])
            for _ in range(30):
                lives[-1].append(agent.act(obs).tolist())
                obs, *rest = env.step(np.array(lives[-1][-1]))
                agent.observe(obs, *rest)
        assert lives[0] == lives[1]
        assert 0 <= np.min(lives) <= np.max(lives) < 20

    @pytest.mark.slow
    def test_trains_and_acts_on_a_bandit(self, tmp_path):
        quick = {"updates": 2, "batch_size": 4, "width": 16, "heads": 2, "layers": 1, "inner": 16, "vector_size": 8}
        settings = {**quick, "window": 20, "slide": 5, "episodes": 1, "eval_every": 0}
        agent = train("headless-ad", ENV, tmp_path / "run", settings=settings, quiet=True)
        again = ICAgent.from_pretrained(tmp_path / "run")
        for mine, theirs in zip(agent.state_dict().values(), again.state_dict().values(), strict=True):
            assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dynamics": True}, ["dynamics"]),
        ({"objective": "l1"}, ["objective='l1'", "nce, mse"]),
        ({"vectors": "learned"}, ["vectors='learned'"]),
        ({"drawn": "never"}, ["drawn='never'"]),
        ({"choice": "best"}, ["choice='best'", "sample, mode"]),
        ({"acting_temperature": 1e-9}, ["acting_temperature=1e-09"]),
        ({"temperature": 0.0}, ["temperature=0.0"]),
        ({"illegal": "masked"}, ["illegal='masked'", "absent, zero"]),
        ({"illegal": "zero"}, ["illegal='zero'", "votes=false"]),
        ({"similarity": "l2"}, ["similarity='l2'", "dot, cosine"]),
        ({"similarity": "cosine", "objective": "mse", "votes": False}, ["objective='mse'", "similarity='cosine'"]),
    ],
    ids=str,
)
def test_bad_settings_are_refused(settings: dict, words: list[str]):
    one_line(lambda: METHODS["headless-ad"].Config(**settings), ValueError, *words)
