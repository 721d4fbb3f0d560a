"""Acting step by step gives the training-time distribution, for every method, layout and space."""

import numpy as np
import pytest
import torch

from tests.fakes import SPACES, Variant, close, given, heads, images, lifetimes, statistics, variants


def training_time(agent, steps):
    """The distribution at the last step of a window, computed as the loss computes it."""
    last = torch.full((len(steps.mask),), steps.mask.shape[1] - 1)
    seen = agent.method.tensors(steps)
    return agent.method.action_distribution(agent.method.read(seen, last), seen.static)


def test_every_layout_is_among_the_variants():
    names = set(map(str, variants()))
    assert {"ad-layout=packed", "dpt-layout=set", "dpt-layout=window", "marked-ad-layout=inserted"} <= names


@pytest.mark.slow
@pytest.mark.parametrize("slide", [1, 4])
@pytest.mark.parametrize("variant", variants() + heads() + images(), ids=str)
@torch.no_grad()
def test_acting_equals_training(variant: Variant, slide: int):
    """Over four windows, so that the window slides many times."""
    agent, steps = variant.build(slide=slide), lifetimes(variant.kind, count=36)
    agent.reset(num_envs=3, seed=0)
    for t in range(36):
        acting = statistics(agent.policy(agent.context, steps.obs[:, t]))
        for row, seen in enumerate(agent.context.length.tolist()):
            window = steps._replace(static=agent.context.steps.static).rows(slice(row, row + 1))
            window = window.window(0 if agent.method.has_memory else t - seen, t + 1)
            training = statistics(training_time(agent, window))[0]
            torch.testing.assert_close(acting[row], training, atol=1e-5, rtol=1e-5)
        close(agent, steps, t)


@pytest.mark.parametrize("kind", SPACES)
@torch.no_grad()
def test_every_space(kind: str):
    agent, steps = Variant("ad", (("dynamics", True),)).build(kind), lifetimes(kind, count=8)
    agent.reset(num_envs=3, seed=0)
    for t in range(8):
        acting = statistics(agent.policy(agent.context, steps.obs[:, t]))
        torch.testing.assert_close(
            acting, statistics(training_time(agent, steps.window(0, t + 1))), atol=1e-5, rtol=1e-5
        )
        close(agent, steps, t)
    terms = agent.method.loss(agent.method.tensors(steps))
    assert set(terms) == {"action", "reward", "next_obs", "return_to_go"}
    assert all(torch.isfinite(term) for term in terms.values())


@pytest.mark.slow
@pytest.mark.parametrize("variant", variants() + heads() + images(), ids=str)
@torch.no_grad()
def test_batch_equals_singles_at_different_lengths(variant: Variant):
    """Rows that were forgotten at different times, or skip steps, act as if they were alone."""
    agent, steps = variant.build(), lifetimes(variant.kind, count=30)
    alone = [variant.build() for _ in range(3)]
    agent.reset(num_envs=3, seed=0)
    for single in alone:
        single.reset(num_envs=1, seed=0)
    known = agent.context.steps.static
    rng = np.random.default_rng(0)
    for t in range(30):
        if t in (3, 11, 12):
            forgotten = np.arange(3) == t % 3
            agent.reset(mask=forgotten)
            alone[t % 3].reset(num_envs=1, seed=0)
        for row, single in enumerate(alone):  # what a lifetime is given may be drawn at random
            single.context.steps.static.update({name: value[row : row + 1] for name, value in known.items()})
        live = rng.random(3) < 0.8
        batch = statistics(agent.policy(agent.context, steps.obs[:, t], live))
        for row in np.flatnonzero(live):
            single = statistics(alone[row].policy(alone[row].context, steps.obs[row : row + 1, t]))
            torch.testing.assert_close(batch[row], single[0], atol=1e-5, rtol=1e-5)
            close(alone[row], steps.rows(slice(row, row + 1)), t)
        close(agent, steps, t, live)
    assert len(set(agent.context.length.tolist())) > 1


@pytest.mark.slow
@pytest.mark.parametrize("variant", variants() + heads() + images(), ids=str)
@torch.no_grad()
def test_branching_never_alters_the_parent(variant: Variant):
    agent, steps = variant.build(), lifetimes(variant.kind, count=20)
    agent.reset(num_envs=3, seed=0)
    for t in range(14):
        agent.policy(agent.context, steps.obs[:, t])
        close(agent, steps, t)
    parent = agent.context
    branch, other = parent.repeat(2), lifetimes(variant.kind, rows=6, count=20, seed=5)
    expected = statistics(agent.policy(parent.select(np.arange(3)), steps.obs[:, 14]))
    for t in range(12):
        agent.policy(branch, other.obs[:, t])
        ends = other.terminated[:, t], other.truncated[:, t]
        branch.close(other.action[:, t], other.reward[:, t], other.next_obs[:, t], *ends, np.ones(6, bool))
    torch.testing.assert_close(statistics(agent.policy(parent, steps.obs[:, 14])), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("variant", variants() + heads() + images(), ids=str)
def test_padding_influences_nothing(variant: Variant):
    agent = variant.build()
    count = agent.config.span
    steps, changed = given(agent, lifetimes(variant.kind, count=count)), lifetimes(variant.kind, count=count, seed=9)
    mask = np.ones((3, count), bool)
    mask[1:, -3:] = False
    noisy = steps.map(np.copy)
    for name, mine in noisy.columns.items():
        mine[~mask] = changed.columns[name][~mask]
    first, second = (agent.method.loss(agent.method.tensors(s._replace(mask=mask))) for s in (steps, noisy))
    for name in first:
        assert first[name].item() > 0
        torch.testing.assert_close(first[name], second[name])


def test_a_short_history_counts_in_the_packed_layout():
    """Its last real step is the target, wherever the padding begins."""
    agent, steps = Variant("ad", (("layout", "packed"),)).build(), lifetimes(rows=1, count=9)
    mask = np.arange(9)[None] < 6
    padded, short = steps._replace(mask=mask), steps.window(0, 6)
    losses = [agent.method.loss(agent.method.tensors(part))["action"] for part in (padded, short)]
    torch.testing.assert_close(*losses)


@pytest.mark.slow
@pytest.mark.parametrize("variant", variants() + heads() + images(), ids=str)
@torch.no_grad()
def test_the_loss_of_a_batch_is_that_of_its_parts(variant: Variant):
    """Weighted by what they are means over, as training does with micro-batches and processes."""
    agent = variant.build().train()
    steps = lifetimes(variant.kind, rows=4, count=agent.config.span, ends=0.15)
    steps.mask[1:3, -4:] = False
    prepared = agent.method.prepare_batch(steps, np.random.default_rng(0))
    batch = agent.method.tensors(agent.method.draw_noise(prepared, np.random.default_rng(1)))
    whole, share = (
        agent.method.loss(batch),
        [agent.method.loss_weight(batch.rows([row])) / agent.method.loss_weight(batch) for row in range(4)],
    )
    assert whole == agent.method.loss(batch)
    parts = [agent.method.loss(batch.rows(slice(row, row + 1))) for row in range(4)]
    for name, term in whole.items():
        torch.testing.assert_close(term, sum(part[name] * share[row] for row, part in enumerate(parts)))


@pytest.mark.parametrize("variant", variants() + heads() + images(), ids=str)
def test_every_weight_learns(variant: Variant):
    """No head or table is carried along that the loss does not reach (distributed training would stall on it)."""
    agent = variant.build()
    steps = given(agent, lifetimes(variant.kind, count=agent.config.span))
    sum(agent.method.loss(agent.method.tensors(steps)).values()).backward()
    assert [name for name, p in agent.named_parameters() if p.grad is None] == []


@pytest.mark.slow
@pytest.mark.parametrize("variant", variants() + heads()[:2], ids=str)
def test_overfits_one_batch(variant: Variant):
    agent = variant.build()
    steps = given(agent, lifetimes(variant.kind, count=9))
    if hasattr(agent.method.body, "norm"):
        torch.nn.init.normal_(agent.method.body.norm.weight, mean=1.0, std=0.1)
    batch, optimizer = agent.method.tensors(steps), torch.optim.Adam(agent.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        terms = agent.method.loss(batch)
        loss = terms.get("action", sum(terms.values()))  # not those that predict noise
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.3 * losses[0]
