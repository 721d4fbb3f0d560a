"""Policies and inverse models that learn from demonstrations: what they read, and what labels do."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch
from gymnasium import spaces

from icrl_agents import HistoryStore, ICAgent, collect, train
from icrl_agents.agents.annotator import Annotator
from icrl_agents.core.steps import MissingColumnError, Steps, check_steps
from icrl_agents.evaluation.evaluate import RandomLearner
from icrl_agents.histories.store import partial_folder
from icrl_agents.methods.base.predictor import CODE, LATENT
from icrl_agents.methods.base.trainable import LABELLED
from icrl_agents.methods.imitation.bc import BC, BCConfig
from icrl_agents.methods.imitation.la_bc import LABC, LABCConfig
from icrl_agents.methods.imitation.lam import LAM, LAMConfig
from icrl_agents.methods.imitation.latent_actions import LatentActions, LatentFields
from icrl_agents.methods.imitation.vpt import VPT, VPT_ACTION, VPTConfig
from icrl_agents.nn.codecs import make_codec
from icrl_agents.nn.codecs.decoded import CodeMixture, decoded, greedy
from icrl_agents.nn.codecs.distributions import Categorical, Gaussian
from tests.conftest import one_line
from tests.fakes import LATENT_PROMPTS, SPACES, lifetimes
from tests.methods.test_lam import FOUR, PLANE, SHOWN, play, unshown

SMALL = {"width": 16}
CODES = {**SMALL, "latent": 4, "codes": 6}
GRID = SPACES["grid"]


def optimise(model: torch.nn.Module, steps: Steps, updates: int = 200) -> None:
    tensors = model.tensors(steps)
    model.fit_normalization(tensors)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(updates):
        optimizer.zero_grad()
        sum(model.loss(tensors).values()).backward()
        optimizer.step()
    model.eval()


def toward(steps: Steps) -> Steps:
    """The steps with actions that the observations tell: the sign of the first coordinate."""
    return steps._replace(action=(steps.obs[..., 0] > 0).astype(np.int64))


# ---- distributions ----------------------------------------------------------------------------------------------


def test_codes_are_decoded_by_the_sum_over_codes():
    torch.manual_seed(0)
    codes, actions = Categorical(torch.randn(2, 3)), Categorical(torch.randn(2, 3, 4), start=-1)
    wanted = torch.einsum("bk,bka->ba", codes.logits.exp(), actions.logits.exp())
    found = decoded(codes, actions)
    torch.testing.assert_close(found.logits.exp(), wanted)
    assert found.mode().tolist() == (wanted.argmax(-1) - 1).tolist()


def test_real_actions_of_codes_are_a_mixture():
    torch.manual_seed(0)
    codes, end = Categorical(torch.randn(5, 3)), torch.full((2,), 9.0)
    actions = Gaussian(torch.randn(5, 3, 2), torch.full((5, 3, 2), -1.0), -end, end)
    found = decoded(codes, actions)
    assert isinstance(found, CodeMixture)
    value = torch.randn(5, 2)
    each = torch.stack(
        [Gaussian(actions.mean[:, k], actions.log_std[:, k], -end, end).log_prob(value) for k in range(3)], -1
    )
    torch.testing.assert_close(found.log_prob(value).exp(), (codes.logits.exp() * each.exp()).sum(-1))
    best = codes.logits.argmax(-1)
    torch.testing.assert_close(found.mode(), actions.mean[torch.arange(5), best])
    many = decoded(
        Categorical(codes.logits[:1].expand(4000, 3)),
        Gaussian(actions.mean[:1].expand(4000, 3, 2), actions.log_std[:1].expand(4000, 3, 2), -end, end),
    ).sample(torch.Generator().manual_seed(0))
    wanted = (codes.logits[:1].exp()[..., None] * actions.mean[:1]).sum(1)[0]
    torch.testing.assert_close(many.mean(0), wanted, atol=0.06, rtol=0)
    values, log_probs = found.candidates(3, torch.Generator().manual_seed(0))
    assert values.shape == (5, 3, 2)
    assert log_probs.shape == (5, 3)


def test_a_greedy_policy_always_takes_the_mode():
    policy = greedy(Categorical(torch.tensor([[0.0, 2.0, 1.0]]), start=3))
    assert {int(policy.sample()) for _ in range(20)} == {4}
    end = torch.full((1,), 9.0)
    real = greedy(Gaussian(torch.tensor([[0.5]]), torch.zeros(1, 1), -end, end))
    assert real.sample().item() == real.mode().item() == 0.5


# ---- policies ---------------------------------------------------------------------------------------------------


def test_bc_learns_what_the_observation_tells():
    torch.manual_seed(0)
    steps = toward(play())
    method = BC(PLANE, FOUR, BCConfig(**SMALL))
    optimise(method, steps)
    agent, other = ICAgent(method), toward(play(seed=1))
    agent.reset(num_envs=32, seed=0)
    found = agent.act(other.obs[:, 0])
    assert (found == other.action[:, 0]).mean() > 0.9
    assert agent.visible(agent.context).mask.shape == (32, 0)


def test_bc_imitates_another_column():
    torch.manual_seed(0)
    steps = play()
    steps = steps._replace(extras={VPT_ACTION: toward(steps).action})
    method = BC(PLANE, FOUR, BCConfig(**SMALL, target=VPT_ACTION))
    optimise(method, steps)
    with torch.no_grad():
        found = method.policy_at(method.hidden(method.tensors(steps))[:, :, 0]).mode().numpy()
    assert (found == steps.extras[VPT_ACTION]).mean() > 0.9
    one_line(
        lambda: method.prepare_batch(play(), np.random.default_rng(0)), MissingColumnError, "bc learns from vpt_action"
    )


@pytest.mark.parametrize("choice", ["mode", "sample"])
def test_the_choice_of_actions(choice):
    torch.manual_seed(0)
    agent = ICAgent(BC(*GRID, BCConfig(**SMALL, choice=choice)).eval())
    agent.reset(num_envs=64, seed=0)
    found = agent.act(np.full((64, 2), 4, np.int32))
    assert (len(set(found.tolist())) == 1) == (choice == "mode")


def test_a_low_temperature_removes_errors():
    torch.manual_seed(0)
    method = BC(*GRID, BCConfig(**SMALL, choice="sample", acting_temperature=0.5)).eval()
    hidden = torch.randn(3, 16)
    found = method.action_distribution(hidden, {}).logits.exp()
    plain = method.policy_at(hidden).logits.exp()
    torch.testing.assert_close(found, plain**2 / (plain**2).sum(-1, keepdim=True))
    one_line(lambda: BCConfig(acting_temperature=0.5), ValueError, "choice='sample'")
    config = BCConfig(**SMALL, choice="sample", acting_temperature=0.5)
    one_line(lambda: BC(*SPACES["vector"], config), ValueError, "Discrete actions", "leave it out")


def labelled_codes(rows: int = 16, count: int = 12) -> Steps:
    """Code k has one latent action, and its action is k modulo 5; the observation tells the code."""
    steps, table = lifetimes("grid", rows, count), np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    code = (steps.obs.sum(-1) % 6)[..., None].astype(np.int64)
    return steps._replace(action=code[..., 0] % 5, extras={LATENT: table[code[..., 0]], CODE: code})


@pytest.mark.parametrize("predicts", ["codes", "latents"])
def test_la_bc_acts_by_the_codes_of_the_video(predicts):
    torch.manual_seed(0)
    steps = labelled_codes(32)
    method = LABC(*GRID, LABCConfig(**{**CODES, "width": 64}, predicts=predicts))
    steps = method.prepare_batch(steps, np.random.default_rng(0))
    if predicts == "codes":
        torch.testing.assert_close(method.latent.vectors[steps.extras[CODE][..., 0]].numpy(), steps.extras[LATENT])
    optimise(method, steps, 300)
    agent = ICAgent(method)
    agent.reset(num_envs=32, seed=0)
    assert (agent.act(steps.obs[:, 3]) == steps.action[:, 3]).mean() > 0.9


def test_the_actions_of_unlabelled_steps_are_not_read():
    method, steps = LABC(*GRID, LABCConfig(**CODES)), labelled_codes()
    weight = np.zeros(steps.mask.shape, np.float32)
    weight[3, 5] = weight[4, 7] = 96.0
    steps = steps._replace(extras={**steps.extras, LABELLED: weight})
    changed = np.where(weight > 0, steps.action, (steps.action + 1) % 5)
    one, two = (method.loss(method.tensors(s)) for s in (steps, steps._replace(action=changed)))
    assert all(torch.equal(one[name], two[name]) for name in one)
    with torch.no_grad():  # the mean over the known steps
        found = method.latent.decode(torch.as_tensor(steps.extras[LATENT][[3, 4], [5, 7]]), method.action)
        mean = -found.log_prob(torch.as_tensor(steps.action[[3, 4], [5, 7]])).mean()
    torch.testing.assert_close(one["decoder"], mean)


def test_codes_of_several_levels_are_one_number():
    method = LABC(*GRID, LABCConfig(**{**CODES, "codes": 3}, levels=2))
    code = np.array([[[0, 0], [2, 0], [1, 2]]])
    assert method.latent.joined(code).tolist() == [[0, 2, 7]]
    assert method.latent.predict.out_features == 9


@pytest.mark.parametrize("name", ["la-bc", "la-bc of latents", "prompted-dt", "bc", "vpt"])
def test_nothing_is_learned_from_labels_of_an_end_that_no_frame_shows(name):
    """Whatever stands in their columns; `annotate` leaves zeros, which are no latent action of any code."""
    torch.manual_seed(0)
    method = {
        "la-bc": lambda: LABC(*GRID, LABCConfig(**CODES)),
        "la-bc of latents": lambda: LABC(*GRID, LABCConfig(**CODES, predicts="latents")),
        "prompted-dt": lambda: LATENT_PROMPTS.build().method,
        "bc": lambda: BC(*GRID, BCConfig(**SMALL, target=VPT_ACTION)),
        "vpt": lambda: VPT(*GRID, VPTConfig(**SMALL)),
    }[name]()
    steps, hidden = unshown(lifetimes("grid", rows=8, count=12))
    steps.extras[VPT_ACTION] = steps.action
    assert hidden.sum() > 5

    if name == "vpt":
        changed = steps._replace(action=np.where(hidden, (steps.action + 1) % 5, steps.action))
    else:  # the latent action itself is what a demonstration shows before the next episode
        gone = {"bc": [VPT_ACTION], "prompted-dt": [CODE]}.get(name, [LATENT, CODE])
        zeros = {each: steps.extras[each].copy() for each in gone}
        for value in zeros.values():
            value[hidden] = 0
        changed = steps._replace(extras={**steps.extras, **zeros})

    def loss(given):
        batch = method.prepare_batch(given, np.random.default_rng(0))
        return torch.stack(list(method.loss(method.tensors(batch)).values()))

    torch.testing.assert_close(loss(changed), loss(steps))


# ---- inverse models ---------------------------------------------------------------------------------------------


def test_vpt_finds_the_actions_of_other_videos():
    torch.manual_seed(0)
    method, labelled = VPT(PLANE, FOUR, VPTConfig(**SMALL)), play(rows=2)
    optimise(method, labelled)
    other = play(seed=1)
    assert method.label(other)[VPT_ACTION].dtype == np.int64
    assert (method.label(other)[VPT_ACTION] == other.action).mean() > 0.95
    assert method.measure(other)["accuracy"] > 0.95


def test_vpt_of_real_actions_is_measured_by_explained_variance():
    torch.manual_seed(0)
    space, steps = spaces.Box(-1, 1, (2,), np.float32), play()
    steps = steps._replace(action=np.clip(steps.next_obs - steps.obs, -1, 1))
    method = VPT(PLANE, space, VPTConfig(**SMALL))
    optimise(method, steps)
    found = method.measure(steps)
    assert found.keys() == {"r2"}
    assert 0.9 < found["r2"] <= 1


def test_labels_shape_the_latent_actions_of_the_joint_stage():
    torch.manual_seed(0)
    lam, steps = LAM(PLANE, FOUR, LAMConfig(**CODES, decoder=True)), play(rows=4)
    lam.loss(lam.tensors(steps))["action"].backward()
    reached = {name.split(".")[0] for name, weight in lam.named_parameters() if weight.grad is not None}
    assert {"inverse", "to_latent", "decoder", "action"} <= reached
    assert "ahead" not in reached
    assert lam.columns[-1] == "decoded_action"
    assert lam.label(steps)["decoded_action"].shape == (4, 40)
    assert "accuracy" in lam.measure(steps)
    plain = LAM(PLANE, FOUR, LAMConfig(**CODES))
    unknown = steps._replace(extras={LABELLED: np.zeros(steps.mask.shape, np.float32)})
    one_line(lambda: plain.prepare_batch(unknown, np.random.default_rng(0)), ValueError, "decoder=true")


# ---- the stages of a pipeline -----------------------------------------------------------------------------------

QUICK = {"updates": 2, "batch_size": 4, "threads": 1, "eval_every": 0, "width": 8}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    path = collect(SHOWN, "noise", folder / "videos.h5", tasks=range(6), streams=2, episodes=2)
    settings = {**QUICK, "latent": 4, "codes": 6}
    lam = train("lam", SHOWN, folder / "lam", histories=path, settings=settings, device="cpu", quiet=True)
    with HistoryStore(path) as store:
        store.annotate(lam.columns, lam)
    return path


def test_the_stages(videos, tmp_path):
    """From a few labels to an agent that loads, by latent actions and by an inverse model."""
    codes = {**QUICK, "latent": 4, "codes": 6}
    options = {"histories": videos, "device": "cpu", "quiet": True}
    joint = train("lam", SHOWN, tmp_path / "joint", settings={**codes, "labels": 9, "decoder": True}, **options)
    assert joint.columns[-1] == "decoded_action"
    agent = train("la-bc", SHOWN, tmp_path / "la-bc", settings={**codes, "labels": 9}, **options)
    assert ICAgent.from_pretrained(tmp_path / "la-bc", device="cpu").method.latent.vectors.any()
    inverse = train("vpt", SHOWN, tmp_path / "vpt", settings={**QUICK, "labels": 9}, **options)
    assert isinstance(inverse, Annotator)
    with HistoryStore(videos) as store:
        store.annotate(inverse.columns, inverse)
    for target in ("action", "expert_action", VPT_ACTION):
        settings = {**QUICK, "labels": 9, "target": target}
        agent = train("bc", SHOWN, tmp_path / target, settings=settings, **options)
    obs = np.zeros((32, 32, 3), np.uint8)
    agent.reset(seed=0)
    assert agent.action_space.contains(agent.act(obs))
    card = (tmp_path / "la-bc" / "README.md").read_text()
    assert "does not learn from its context" in card
    assert "in-context-reinforcement-learning" not in card


@pytest.mark.parametrize("labelled", [False, True])
def test_latent_actions_of_two_models_are_not_mixed(tmp_path, labelled):
    paths = [
        collect(SHOWN, "noise", tmp_path / f"{seed}.h5", tasks=range(3), streams=1, episodes=1, seed=seed)
        for seed in range(2)
    ]

    def label(by):
        for path, name in zip(paths, by, strict=True):
            with HistoryStore(path) as store:
                store.annotate(LATENT, lambda steps: np.zeros((*steps.mask.shape, 4), np.float32), identity=name)

    settings = {**QUICK, "latent": 4, "labels": 4, "predicts": "latents"}
    given = {"histories": paths[0], "settings": settings | {"labelled": str(paths[1])}} if labelled else {
        "histories": paths, "settings": settings
    }  # fmt: skip

    def learn(out):
        return train("la-bc", SHOWN, tmp_path / out, **given, device="cpu", quiet=True)

    label(("one", "other"))
    one_line(lambda: learn("a"), ValueError, "0.h5", "1.h5", "different models", "same one")
    label(("one", "one"))
    learn("b")


def test_codes_that_another_model_left_behind_are_refused(videos, tmp_path):
    """Without a quantiser a model replaces latent actions only: the codes beside them are those of the one before."""
    path = tmp_path / "videos.h5"
    path.write_bytes(videos.read_bytes())
    options = {"histories": path, "device": "cpu", "quiet": True}
    plain = train("lam", SHOWN, tmp_path / "lam", settings={**QUICK, "latent": 4, "quantizer": "none"}, **options)
    with HistoryStore(path) as store:
        store.annotate(plain.columns, plain)
        assert CODE in store[0].extras
        assert plain.measure(store[0]).keys() == {"reconstruction", "copy"}
    codes = {**QUICK, "latent": 4, "codes": 6}
    one_line(lambda: train("la-bc", SHOWN, tmp_path / "a", settings=codes, **options), ValueError, CODE, "annotate")
    train("la-bc", SHOWN, tmp_path / "b", settings={**QUICK, "latent": 4, "predicts": "latents"}, **options)


def test_a_collection_without_a_finished_task_is_one_line(videos, tmp_path):
    folder = partial_folder(tmp_path / "begun.h5")
    folder.mkdir()
    with HistoryStore(videos) as store, h5py.File(folder / "header.h5", "w") as header:
        store.info.write(header)
    with HistoryStore(tmp_path / "begun.h5") as store:
        assert store.annotated_by("latent_action") == ""
    options = {"histories": tmp_path / "begun.h5", "settings": QUICK, "device": "cpu", "quiet": True}
    one_line(lambda: train("la-bc", SHOWN, tmp_path / "a", **options), ValueError, "begun.h5 is not finished")


@pytest.mark.parametrize(
    ("method", "settings", "words"),
    [
        ("ad", {"labels": 4}, ("labels=4 is for bc, la-bc, lam, prompted-dt, vpt", "not for ad")),
        ("bc", {"labels": 4000}, ("labels=4000 steps", "lower it")),
        ("bc", {"labelled": "x.h5"}, ("x.h5' without a number",)),
        ("bc", {"target": "vpt_acton"}, ("target=vpt_acton",)),
        ("lam", {"labels": 4}, ("decoder=true",)),
        ("la-bc", {"codes": 3, "latent": 4}, ("codes=3", "settings of the lam")),
        ("la-bc", {"codes": 6}, ("size 4, not latent=16",)),
        ("la-bc", {"codes": 80, "levels": 2}, ("are 6400, at most 4096",)),
        ("la-bc", {"labels": 4, "batch_size": 1, "codes": 6, "latent": 4}, ("batch_size=1", "at least 2")),
    ],
)
def test_mistakes_are_one_line(videos, tmp_path, method, settings, words):
    settings = {**QUICK, **settings}
    settings = {name: value for name, value in settings.items() if (method, name) != ("ad", "width")}
    one_line(
        lambda: train(method, SHOWN, tmp_path / "x", histories=videos, settings=settings, device="cpu", quiet=True),
        ValueError,
        *words,
    )
    assert not (tmp_path / "x" / "config.json").exists()


def test_known_steps_may_be_of_another_file(videos, tmp_path):
    """Of random play, say: the videos' own actions are then read nowhere."""
    codes = {**QUICK, "latent": 4, "codes": 6, "labels": 9}
    other = collect(SHOWN, "uniform", tmp_path / "play.h5", tasks=range(6), streams=1, episodes=1)
    lam = Annotator.from_pretrained(videos.parent / "lam", device="cpu")
    with HistoryStore(other) as store:
        store.annotate(lam.columns, lam)
    hidden = tmp_path / "hidden.h5"
    hidden.write_bytes(videos.read_bytes())
    with h5py.File(hidden, "r+") as file:
        for task in map(str, range(6)):
            file[task]["action"][...] = 0
    found = []
    for number, path in enumerate((videos, hidden)):
        settings = {**codes, "labelled": str(other)}
        found.append(
            train("la-bc", SHOWN, tmp_path / str(number), histories=path, settings=settings, device="cpu", quiet=True)
        )
    assert all(torch.equal(*pair) for pair in zip(*(agent.state_dict().values() for agent in found), strict=True))


def test_fresh_lifetimes_have_no_labels(tmp_path):
    settings = {**QUICK, "labels": 4}
    one_line(lambda: train("bc", SHOWN, tmp_path / "x", settings=settings, quiet=True), ValueError, "give --histories")


def test_la_bc_needs_annotated_histories(tmp_path):
    path = collect(SHOWN, "noise", tmp_path / "plain.h5", tasks=[0, 1], streams=1, episodes=1)
    call = lambda: train("la-bc", SHOWN, tmp_path / "x", histories=path, settings=QUICK, quiet=True)  # noqa: E731
    one_line(call, ValueError, "la-bc learns from latent_action", "annotate")


WIDE = {"layers": 1, "heads": 2, "inner": 16, "window": 8, "slide": 4}
PROMPTS = {"layers": 1, "heads": 2, "inner": 16, "horizon": 8, "latent": 4}
LACKING = {  # method: settings, column that it learns from, source of the histories without it
    "la-bc": ({"latent": 4, "codes": 6}, "latent_action", "noise"),
    "prompted-dt": (PROMPTS, "latent_action", "noise"),
    "bc": ({"target": "decoded_action"}, "decoded_action", "noise"),
    "dpt": ({**WIDE, "target": "intended_action"}, "intended_action", "noise"),
    "marked-ad": ({**WIDE, "min_length": 2}, "log_prob", RandomLearner()),
}


@pytest.mark.parametrize("method", LACKING)
def test_the_file_that_lacks_a_column_is_named(method, tmp_path, videos):
    """Histories of several collections share the columns that all of them have, so it may be any of them."""
    settings, column, source = LACKING[method]
    other = collect(SHOWN, source, tmp_path / "other.h5", tasks=[0, 1], streams=1, episodes=1, seed=9)
    first = videos if method in ("bc", "dpt") else other
    call = lambda: train(  # noqa: E731
        method, SHOWN, tmp_path / "x", histories=[videos, other], settings={**QUICK, **settings}, quiet=True
    )
    one_line(call, ValueError, f"{method} learns from {column}, which {first} lacks: ")
    assert not (tmp_path / "x" / "train.json").exists()


def test_the_file_of_labels_that_lacks_a_column_is_named(tmp_path, videos):
    other = collect(SHOWN, "noise", tmp_path / "other.h5", tasks=[0, 1], streams=1, episodes=1, seed=9)
    settings = {**QUICK, "latent": 4, "codes": 6, "labels": 4, "labelled": str(other)}
    call = lambda: train("la-bc", SHOWN, tmp_path / "x", histories=videos, settings=settings, quiet=True)  # noqa: E731
    one_line(call, ValueError, f"la-bc learns from latent_action, which {other} lacks: annotate")


# ---- columns ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "space",
    [spaces.Discrete(4, start=1), spaces.MultiDiscrete([2, 2], start=[1, 0]), spaces.Box(0.5, 1, (2,), np.float32)],
    ids=str,
)
@pytest.mark.parametrize("kind", ["vpt", "lam"])
def test_found_actions_are_of_the_space_also_where_no_frame_shows_one(space, kind):
    steps, hidden = unshown(play(rows=4))
    space.seed(0)
    drawn = [[space.sample() for _ in range(steps.mask.shape[1])] for _ in steps.mask]
    steps = steps._replace(action=np.array(drawn, space.dtype))
    configs = {"vpt": (VPT, VPTConfig(**SMALL)), "lam": (LAM, LAMConfig(**CODES, decoder=True))}
    method, config = configs[kind]
    model = method(PLANE, space, config)
    optimise(model, steps, updates=1)
    found = model.label(steps)
    check_steps(steps._replace(extras=found), {"action": make_codec(space, 1, predicts=False)}, "labelled")
    name = VPT_ACTION if kind == "vpt" else "decoded_action"
    assert len(np.unique(found[name][hidden].reshape(hidden.sum(), -1), axis=0)) == 1  # nothing was found there
    assert kind == "vpt" or not found[LATENT][hidden].any()


def test_a_code_whose_latent_action_is_zero_is_one_that_occurs():
    torch.manual_seed(0)
    latent, actions = LatentActions(8, LatentFields(latent=2, codes=4)), make_codec(FOUR, 8, embeds=False)
    steps, vectors = play(rows=2), np.array([[0, 0], [1, 0], [0, 1], [9, 9]], np.float32)
    code = steps.action % 3  # of 3 codes, the first of which is in the middle, as with fsq; the fourth never occurs
    latent.read(steps._replace(extras={LATENT: vectors[code], CODE: code[..., None]}), "la-bc")
    fit = actions.head(latent.decoder(torch.tensor(vectors[:3]))).logits.softmax(-1).T  # (actions, codes)
    wanted = fit / fit.sum(1, keepdim=True) @ torch.tensor(vectors[:3])
    torch.testing.assert_close(latent.of_actions(torch.arange(4)[None], actions)[0], wanted)
    torch.testing.assert_close(latent.vectors[:3], torch.tensor(vectors[:3]))
    assert not latent.vectors[3].any()
