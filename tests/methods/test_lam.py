"""Latent action model: what it reads, what it finds, and where its labels go."""

from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from icrl_agents import HistoryStore, RecordHistory, collect, train
from icrl_agents.agents.agent import ICAgent
from icrl_agents.agents.annotator import Annotator
from icrl_agents.core.steps import Steps, stack_steps
from icrl_agents.methods.imitation.lam import CODE, LAM, LATENT, RAW, LAMConfig
from icrl_agents.methods.imitation.vpt import VPT
from icrl_agents.nn.quantizers import QUANTIZERS
from icrl_agents.training.processes import check_number
from tests.conftest import one_line
from tests.fakes import IMAGES, lifetimes

SMALL = {"width": 16, "latent": 4, "codes": 6, "window": 4}
LINE = spaces.Box(-1e3, 1e3, (1,), np.float32)
PLANE = spaces.Box(-1e3, 1e3, (2,), np.float32)
FOUR = spaces.Discrete(4)
MOVES = np.array([(1, 0), (-1, 0), (0, 1), (0, -1)], np.float32)
SHOWN = "icrl/PixelGridGoal-v0"


def numbered(rows: int, count: int, ends: list[list[int]]) -> Steps:
    """Observations are the numbers 0, 1, ...; an episode's final observation is 0.5 more than its last one."""
    obs = np.arange(rows * count, dtype=np.float32).reshape(rows, count, 1)
    ended = np.zeros((rows, count), bool)
    for row, places in enumerate(ends):
        ended[row, places] = True
    following = np.where(ended[..., None], obs + 0.5, obs + 1)
    zeros = np.zeros((rows, count))
    return stack_steps(obs, zeros.astype(np.int64), zeros.astype(np.float32), following, ended, zeros > 0)


def test_frames_are_those_of_the_episode_and_none_is_later():
    lam = LAM(LINE, FOUR, LAMConfig(**{**SMALL, "earlier": 2}))
    steps = numbered(2, 6, [[2], []])
    steps = steps._replace(mask=np.array([[True] * 6, [True] * 4 + [False] * 2]))
    context, following = lam.read_all(lam.tensors(steps))
    assert context.tolist() == [
        *([0, 0, 0], [0, 0, 1], [0, 1, 2], [3, 3, 3], [3, 3, 4], [3, 4, 5]),  # two episodes
        *([6, 6, 6], [6, 6, 7], [6, 7, 8], [7, 8, 9]),
    ]
    assert following.tolist() == [[1], [2], [2.5], [4], [5], [6], [7], [8], [9], [10]]


@pytest.mark.parametrize("kind", IMAGES)
@torch.no_grad()
def test_the_forward_model_reads_the_next_frame_only_through_the_latent_action(kind):
    space, action = IMAGES[kind]
    lam, steps = LAM(space, action, LAMConfig(**SMALL, earlier=1)).eval(), lifetimes(kind, count=6)
    torch.nn.init.normal_(lam.ahead.last.weight)
    context, following = lam.read_all(lam.tensors(steps))
    latent = torch.randn(len(context), 4)
    guess = lam.guess(context, latent)
    assert guess.shape == following.shape
    changed = lam.tensors(steps._replace(next_obs=255 - steps.next_obs))
    again, others = lam.read_all(changed)
    assert not torch.equal(others, following)
    assert torch.equal(lam.guess(again, latent), guess)
    assert not torch.equal(lam.guess(context, latent + 1), guess)  # it listens to the action


@pytest.mark.parametrize("kind", [*IMAGES, "plane"])
@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_every_weight_learns(kind, quantizer):
    space, action = {**IMAGES, "plane": (PLANE, FOUR)}[kind]
    torch.manual_seed(0)
    lam = LAM(space, action, LAMConfig(**{**SMALL, "codes": 16}, quantizer=quantizer)).train()
    lam.to_latent[-1].weight.data.mul_(20)  # as after some training: "fsq" rounds small vectors to zero
    steps = play(rows=8, count=12) if kind == "plane" else lifetimes(kind, rows=8, count=12)
    tensors = lam.tensors(steps)
    lam.fit_normalization(tensors)
    optimizer = torch.optim.SGD(lam.parameters(), lr=0.1)
    for _ in range(2):  # the first step makes the zero weights of the last layer others
        terms = lam.loss(tensors)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
    assert set(terms) == {"reconstruction", "commitment"}
    assert [name for name, weight in lam.named_parameters() if weight.grad is None or not weight.grad.any()] == []


def play(rows: int = 32, count: int = 40, seed: int = 0) -> Steps:
    """Random moves in a plane; episodes of ten steps begin somewhere else."""
    rng = np.random.default_rng(seed)
    action = rng.integers(4, size=(rows, count))
    obs = np.zeros((rows, count, 2), np.float32)
    obs[:, ::10] = rng.normal(size=(rows, count // 10, 2)) * 20
    for t in range(count - 1):
        if (t + 1) % 10:
            obs[:, t + 1] = obs[:, t] + MOVES[action[:, t]]
    ended = np.zeros((rows, count), bool)
    ended[:, 9::10] = True
    following = obs + MOVES[action]
    zeros = np.zeros((rows, count), np.float32)
    return stack_steps(obs, action, zeros, following, ended & False, ended)


def learn(space: spaces.Box, first: Steps, steps: Steps) -> LAM:
    """A model of `steps`, with the statistics of the `first` batch."""
    torch.manual_seed(0)
    lam = LAM(space, FOUR, LAMConfig(**{**SMALL, "width": 32, "codes": 8})).train()
    tensors = lam.tensors(steps)
    lam.fit_normalization(lam.tensors(first))
    optimizer = torch.optim.AdamW(lam.parameters(), lr=3e-3)
    for _ in range(250):
        optimizer.zero_grad()
        sum(lam.loss(tensors).values()).backward()
        optimizer.step()
    return lam.eval()


@pytest.fixture(scope="module")
def learned() -> LAM:
    return learn(PLANE, play(), play())


def meanings(codes: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, float]:
    """The most frequent action of each code, and the share of steps that have it."""
    table = np.zeros((8, 4))
    np.add.at(table, (codes.reshape(-1), actions.reshape(-1)), 1)
    return table.argmax(1), table.max(1).sum() / table.sum()


def test_an_entry_that_trembles_and_seldom_jumps_outweighs_nothing():
    """As the pose of an object that an arm touches in one episode of many: millions of its usual changes."""

    def with_object(seed: int, jumps: float) -> Steps:
        steps, rng = play(seed=seed), np.random.default_rng(seed)
        third = 1e-5 * rng.normal(size=(2, *steps.mask.shape, 1)) + 10 * (rng.random((2, *steps.mask.shape, 1)) < jumps)
        seen = zip((steps.obs, steps.next_obs), third, strict=True)
        obs, following = (np.concatenate(pair, 2, dtype=np.float32) for pair in seen)
        return steps._replace(obs=obs, next_obs=following)

    space = spaces.Box(-1e3, 1e3, (3,), np.float32)
    lam, steps = learn(space, with_object(0, 0), with_object(0, 0.01)), with_object(1, 0.01)
    labels = lam.label(steps)
    calm = abs(steps.next_obs - steps.obs)[..., 2] < 1
    assert meanings(labels[CODE][calm, 0], steps.action[calm])[1] > 0.98
    assert abs(labels[RAW]).max() < 1e3


def test_codes_are_actions_at_the_very_step(learned):
    """Also at the first and at the last step of an episode, and at no other step's."""
    steps = play(seed=1)
    labels = learned.label(steps)
    assert labels[LATENT].shape == labels[RAW].shape == (32, 40, 4)
    codes, actions = labels[CODE][..., 0], steps.action
    meaning, purity = meanings(codes, actions)
    assert purity > 0.99
    for place in (slice(0, None, 10), slice(9, None, 10), slice(5, None, 10)):
        assert (meaning[codes[:, place]] == actions[:, place]).mean() > 0.99
    for shift in (1, -1):
        assert (meaning[codes] == np.roll(actions, shift, 1)).mean() < 0.5


def test_quality_is_told_against_the_current_frame(learned):
    found = learned.measure(play(seed=2))
    assert found["copy"] == pytest.approx(1, abs=0.1)
    assert found["reconstruction"] < 0.3
    assert 4 <= found["used_codes"][0] <= 8
    assert 3.5 < found["perplexity"][0] <= found["used_codes"][0]


def test_labelling_changes_nothing(learned):
    before = {name: value.clone() for name, value in learned.state_dict().items()}
    learned.train()
    one = learned.label(play(rows=2))
    assert learned.training
    learned.eval()
    two = learned.label(play(rows=2))
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert all(torch.equal(value, before[name]) for name, value in learned.state_dict().items())


def test_padded_steps_have_no_label(learned):
    steps = play(rows=2)
    short = steps._replace(mask=np.arange(40) < np.array([[17], [40]]))
    whole, found = learned.label(steps), learned.label(short)
    assert (found[LATENT][0, 17:] == 0).all()
    assert np.array_equal(found[LATENT][0, :17], whole[LATENT][0, :17])
    assert np.array_equal(found[CODE][1], whole[CODE][1])


def unshown(steps: Steps) -> tuple[Steps, np.ndarray]:
    """The same steps; in every second row episodes terminate, and their final observations are missing.

    Returns:
        The steps; the last observation stands for the final one, as importers have it.
        Flags (B, T) of the last steps of these episodes.
    """
    ends = steps.truncated | steps.terminated
    ends[::2] = False
    shown = np.where(ends[..., None], steps.obs, steps.next_obs)
    return steps._replace(next_obs=shown, terminated=steps.terminated | ends, truncated=steps.truncated & ~ends), ends


@pytest.mark.parametrize("changes", [{}, {"ahead": 3}, {"hierarchy": 3}, {"decoder": True}], ids=str)
@pytest.mark.parametrize(("kind", "quantizer"), [("plane", "none"), *(("grey", name) for name in QUANTIZERS)])
def test_a_part_of_a_batch_in_which_nothing_is_labelled_has_no_loss(kind, changes, quantizer):
    space, action = {**IMAGES, "plane": (PLANE, FOUR)}[kind]
    lam = LAM(space, action, LAMConfig(**{**SMALL, "codes": 16, **changes}, quantizer=quantizer)).train()
    steps = play(rows=4) if kind == "plane" else lifetimes(kind, rows=4, count=12)
    lam.fit_normalization(lam.tensors(steps))
    lam.loss(lam.tensors(steps))
    nothing = steps.rows(slice(2)).window(3, 4)
    nothing = nothing._replace(next_obs=nothing.obs, terminated=np.ones_like(nothing.terminated))
    assert lam.loss_weight(nothing) == 0
    books = {name: value.clone() for name, value in lam.state_dict().items()}
    terms = lam.loss(lam.tensors(nothing))
    assert all(torch.equal(value, books[name]) for name, value in lam.state_dict().items())
    assert set(terms) == set(lam.loss(lam.tensors(steps)))
    assert all(value == 0 for value in terms.values())
    sum(terms.values()).backward()
    assert all(weight.grad is None or not weight.grad.any() for weight in lam.parameters())


def test_histories_of_which_nothing_can_be_labelled_are_refused():
    lam, steps = LAM(PLANE, FOUR, LAMConfig(**SMALL)), play(rows=2)
    never = steps._replace(next_obs=steps.obs, terminated=np.ones_like(steps.terminated))
    one_line(lambda: lam.fit_normalization(lam.tensors(never)), ValueError, "no step", "final observations")


@pytest.mark.parametrize("changes", [{}, {"ahead": 3}, {"hierarchy": 3}, {"decoder": True}], ids=str)
def test_an_end_that_no_frame_shows_is_neither_learned_nor_labelled(changes):
    lam = LAM(PLANE, FOUR, LAMConfig(**{**SMALL, **changes})).eval()
    steps, hidden = unshown(play(rows=4))

    def numbers(given: Steps) -> dict:
        lam.fit_normalization(lam.tensors(given))
        terms = {name: value.item() for name, value in lam.loss(lam.tensors(given)).items()}
        return {**terms, "unit": lam.step.tolist(), "steps": lam.loss_weight(given), **lam.measure(given)}

    assert numbers(steps) == numbers(steps._replace(mask=~hidden))
    labels = lam.label(steps)
    assert not any(value[hidden].any() for value in labels.values())
    assert labels[LATENT][~hidden].any(1).all()
    moved = steps._replace(next_obs=np.where(hidden[..., None], steps.obs + 1, steps.next_obs))
    assert lam.label(moved)[LATENT][hidden].any(1).all()  # a termination that is shown is like any other step


def test_long_histories_are_read_a_part_at_a_time(learned, monkeypatch):
    from icrl_agents.methods.base import predictor

    steps = play(rows=3)
    labels, quality = learned.label(steps), learned.measure(steps)
    monkeypatch.setattr(predictor, "BLOCK", 7)  # not a divisor of an episode
    again, measured = learned.label(steps), learned.measure(steps)
    assert np.array_equal(labels[CODE], again[CODE])
    np.testing.assert_allclose(labels[RAW], again[RAW], atol=1e-5)
    assert measured["used_codes"] == quality["used_codes"]
    assert [measured[name] for name in ("reconstruction", "copy")] == pytest.approx(
        [quality[name] for name in ("reconstruction", "copy")]
    )


def test_histories_without_steps_have_labels_and_no_quality(learned):
    empty = play(rows=2)._replace(mask=np.zeros((2, 40), bool))
    labels = learned.label(empty)
    assert {name: value.shape for name, value in labels.items()} == {
        LATENT: (2, 40, 4),
        RAW: (2, 40, 4),
        CODE: (2, 40, 1),
    }
    assert not any(value.any() for value in labels.values())
    one_line(lambda: learned.measure(empty), ValueError, "no steps")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    return collect(SHOWN, "noise", folder / "videos.h5", tasks=range(12), streams=2, episodes=2)


TINY = {**SMALL, "updates": 4, "batch_size": 8, "threads": 1}


@pytest.fixture(scope="module")
def trained(videos):
    return train("lam", SHOWN, videos.parent / "lam", histories=videos, settings=TINY, device="cpu", quiet=True)


def test_what_is_trained_labels_a_store(videos, trained, tmp_path):
    assert isinstance(trained, Annotator)
    loaded = Annotator.from_pretrained(videos.parent / "lam", device="cpu")
    assert "LAM" in repr(loaded)
    assert loaded.weights_sha256 == trained.weights_sha256
    path = tmp_path / "videos.h5"
    path.write_bytes(videos.read_bytes())
    with HistoryStore(path) as store:
        plain = store[3]
        assert store.annotate(loaded.columns, loaded, identity=loaded.weights_sha256)
        labelled = store[3]
        expected = loaded(plain)
        assert all(np.array_equal(labelled.extras[name], expected[name]) for name in (LATENT, RAW, CODE))
        assert np.array_equal(labelled.obs, plain.obs)
        assert labelled.obs.dtype == np.uint8
        # again: nothing to do; with other weights: other labels
        changed = path.stat().st_mtime_ns
        assert not store.annotate(loaded.columns, loaded, identity=loaded.weights_sha256)
        assert path.stat().st_mtime_ns == changed
        assert store.annotate(LATENT, lambda steps: 0 * expected[LATENT][:, :, :1], identity="other")
        assert store[3].extras[LATENT].shape[-1] == 1
        assert store.annotate(loaded.columns, loaded, identity=loaded.weights_sha256)
        assert np.array_equal(store[3].extras[LATENT], expected[LATENT])
        one_line(lambda: store.annotate("intent", loaded), ValueError, "no column 'intent'", "latent_action")


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_every_quantizer_is_saved_and_loaded(videos, tmp_path, quantizer):
    codes = {"codes": 9} if quantizer == "fsq" else {} if quantizer == "none" else {"codes": 6}
    settings = {**{name: value for name, value in TINY.items() if name != "codes"}, **codes}
    settings |= {"updates": 1, "quantizer": quantizer}
    found = train("lam", SHOWN, tmp_path / "lam", histories=videos, settings=settings, device="cpu", quiet=True)
    loaded = Annotator.from_pretrained(tmp_path / "lam", device="cpu")
    with HistoryStore(videos) as store:
        ours, theirs = found(store[3]), loaded(store[3])
    assert all(np.array_equal(ours[name], theirs[name]) for name in found.columns)


def test_known_steps_have_no_earlier_frames(videos, tmp_path):
    settings = {**TINY, "earlier": 1, "decoder": True, "labels": 5}
    given = {"histories": videos, "settings": settings, "device": "cpu", "quiet": True}
    one_line(lambda: train("lam", SHOWN, tmp_path / "lam", **given), ValueError, "earlier=1", "give earlier=0")


@pytest.mark.parametrize(
    ("quantizer", "refused"), [("vq", True), ("residual-vq", True), ("fsq", False), ("none", False)]
)
def test_codes_that_move_are_trained_by_one_process(monkeypatch, quantizer, refused):
    config = LAMConfig(quantizer=quantizer)
    several, one = SimpleNamespace(num_processes=2), SimpleNamespace(num_processes=1)
    check_number(one, 8, config)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    if refused:
        one_line(lambda: check_number(several, 8, config), ValueError, "2 processes", quantizer, "train it with one")
    else:
        check_number(several, 8, config)
    one_line(lambda: check_number(several, 1, LAMConfig(quantizer="none")), ValueError, "batch_size=1", "raise it")


def test_agents_learn_beside_latent_columns(videos, trained, tmp_path):
    """A latent action is no action of the environment, so it is not checked as one."""
    path = tmp_path / "videos.h5"
    path.write_bytes(videos.read_bytes())
    with HistoryStore(path) as store:
        store.annotate(trained.columns, trained)
    settings = {"width": 8, "layers": 1, "heads": 2, "inner": 8, "window": 8, "slide": 4, "updates": 1, "eval_every": 0}
    agent = train("ad", SHOWN, tmp_path / "ad", histories=path, settings=settings, device="cpu", quiet=True)
    assert isinstance(agent, ICAgent)


def test_an_interrupted_training_goes_on_to_the_same_weights(videos, trained, monkeypatch, tmp_path):
    from icrl_agents.training import update

    real, seen = update.Updater.update, []

    def stops(self, batch, number, read=True):
        if number == 3 and not seen:
            seen.append(number)
            raise KeyboardInterrupt
        return real(self, batch, number, read)

    monkeypatch.setattr(update.Updater, "update", stops)
    settings = {**TINY, "checkpoint_every": 1}
    arguments = {"histories": videos, "settings": settings, "device": "cpu", "quiet": True}
    with pytest.raises(KeyboardInterrupt):
        train("lam", SHOWN, tmp_path / "lam", **arguments)
    again = train("lam", SHOWN, tmp_path / "lam", resume=True, **arguments)
    for name, value in again.state_dict().items():
        assert torch.equal(value, trained.state_dict()[name]), name


def test_a_model_and_an_agent_are_not_mistaken_for_each_other(trained, videos, tmp_path, tiny_agent):
    folder = videos.parent / "lam"
    one_line(lambda: ICAgent.from_pretrained(folder), ValueError, "LAM", "does not act", "annotate")
    tiny_agent().save_pretrained(tmp_path / "agent")
    one_line(lambda: Annotator.from_pretrained(tmp_path / "agent"), ValueError, "is an agent", "ICAgent")
    one_line(lambda: Annotator(tiny_agent().method), TypeError, "expected a Predictor")
    card = (folder / "README.md").read_text()
    assert 'pip install "icrl-agents[latent]"' in card
    assert "icrl-agents annotate" in card
    assert "icrl-agents play" not in card
    assert "in-context-reinforcement-learning" not in card
    other = gymnasium.make("icrl/Darkroom-v0").observation_space
    one_line(lambda: trained.check_space(other, "x.h5"), ValueError, "x.h5 has observations", "(32, 32, 3)")
    trained.check_space(trained.observation_space, "x.h5", spaces.Discrete(9))  # it knows no actions


def test_a_model_of_actions_labels_no_histories_of_other_actions():
    model = Annotator(VPT(PLANE, FOUR))
    model.check_space(PLANE, "x.h5", FOUR)
    other = spaces.Discrete(9)
    one_line(lambda: model.check_space(PLANE, "x.h5", other), ValueError, "x.h5 has actions Discrete(9)", "Discrete(4)")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: LAM(spaces.Discrete(4), FOUR), ("Discrete(4)", "images and other Boxes")),
        (lambda: LAMConfig(quantizer="vqvae"), ("quantizer='vqvae'", "residual-vq")),
        (lambda: LAMConfig(codes=1), ("codes=1", "2")),
    ],
    ids=["space", "quantizer", "codes"],
)
def test_bad_arguments_are_one_line(call, words):
    one_line(call, ValueError, *words)


def test_a_gymnasium_recording_can_be_labelled(trained):
    """Steps of the recorder, with final observations in place."""
    env = RecordHistory(gymnasium.make_vec(SHOWN, num_envs=3))
    env.reset(seed=0)
    for _ in range(25):
        env.step(env.unwrapped.expert_action())
    labels = trained(env.steps(1))
    assert labels[LATENT].shape[0] == 3
