"""Variants of the latent action model: transformers, several frames ahead, skills, bounded predictions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from icrl_agents import HistoryStore, collect, train
from icrl_agents.agents.annotator import Annotator
from icrl_agents.core.steps import Steps, stack_steps
from icrl_agents.methods.base.predictor import CODE, LATENT, RAW, SKILL
from icrl_agents.methods.imitation.lam import LAM
from icrl_agents.methods.imitation.lam_config import LAMConfig
from icrl_agents.methods.imitation.latents import Found
from icrl_agents.nn.quantizers import Quantized
from icrl_agents.nn.vision.vit import Patches, VitForward, VitSize
from tests.conftest import one_line
from tests.fakes import IMAGES, lifetimes
from tests.methods.test_lam import FOUR, LINE, PLANE, SHOWN, SMALL, numbered, play

VIT = {"encoder": "vit", "heads": 2, "patch": 4}
ON_IMAGES = {
    "vit": VIT,
    "ahead": {"ahead": 3},
    "hierarchy": {"hierarchy": 3},
    "bounded": {"bounded": True},
    "all": {**VIT, "ahead": 3, "hierarchy": 3, "bounded": True, "earlier": 1},
}
ON_VECTORS = {name: ON_IMAGES[name] for name in ("ahead", "hierarchy")}
CASES = [
    *(("rows-first", name) for name in ON_IMAGES),
    *(("grey", name) for name in ("vit", "all")),
    *(("plane", name) for name in ON_VECTORS),
]


def build(kind: str, name: str, **more: object) -> tuple[LAM, Steps]:
    """A model of this variant and lifetimes for it."""
    torch.manual_seed(0)
    space, action = {**IMAGES, "plane": (PLANE, FOUR)}[kind]
    lam = LAM(space, action, LAMConfig(**{**SMALL, "codes": 16, **ON_IMAGES[name], **more}))
    return lam, play(rows=8, count=10) if kind == "plane" else lifetimes(kind, rows=8, count=12)


def found_at(told: Tensor) -> Found:
    """What inverse models find, if it is known: latent actions (N, Z) without skills."""
    nothing = told.new_zeros(())
    return Found(told, Quantized(told, told.new_zeros(len(told), 0), nothing), None)


def guesses_of(lam: LAM, steps: Steps, found: Found, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The predictions in a loss, one frame ahead, two, ..., if inverse models find `found`."""
    seen: list[Tensor] = []
    guess = lam.guess
    monkeypatch.setattr(lam, "infer", lambda context, following: found)
    monkeypatch.setattr(lam, "guess", lambda *given: seen.append(guess(*given)) or seen[-1])
    lam.loss(lam.tensors(steps))
    monkeypatch.undo()
    return seen


# ---- what forward models see ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name"), CASES)
@torch.no_grad()
def test_no_forward_model_sees_a_later_frame(kind, name, monkeypatch):
    """Of one lifetime without an end, all frames after the first are changed, and what is found stays."""
    lam, _ = build(kind, name)
    steps = play(rows=1, count=10) if kind == "plane" else lifetimes(kind, rows=1, count=6, ends=0)
    for weight in lam.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    obs, following = steps.obs.copy(), 7 + steps.next_obs
    obs[:, 1:] += 7
    changed = steps._replace(obs=obs, next_obs=following)
    context, after = lam.read_all(lam.tensors(steps))
    found = lam.eval().infer(context, after)
    before = guesses_of(lam, steps, found, monkeypatch)
    again = guesses_of(lam, changed, found, monkeypatch)
    assert len(before) == lam.config.ahead
    for one, two in zip(before, again, strict=True):
        assert torch.equal(one[0], two[0])
    if lam.config.hierarchy:
        vectors = found.skill.vectors
        guess = lam.guess_later(context, vectors)
        assert torch.equal(guess[0], lam.guess_later(lam.read_all(lam.tensors(changed))[0], vectors)[0])
        assert not torch.equal(guess, lam.guess_later(context, vectors + 1))
    # it does see the frames before, and hears what was found
    if kind != "plane":
        assert not torch.equal(
            guesses_of(lam, steps._replace(obs=7 + steps.obs), found, monkeypatch)[0][0], before[0][0]
        )
    other = found._replace(action=found.action._replace(vectors=found.action.vectors + 1))
    assert not torch.equal(guesses_of(lam, steps, other, monkeypatch)[0], before[0])


@torch.no_grad()
def test_a_transformer_predicts_every_pixel_of_the_latest_frame():
    """Images are no whole patches; a change in the latest frame's last pixel changes what is predicted everywhere."""
    torch.manual_seed(0)
    model = VitForward((3, 9, 7), 2, 4, 16, VitSize(2, 2, 4))
    frames, action = torch.rand(5, 6, 9, 7) - 0.5, torch.randn(5, 4)
    assert not model(frames, action).any()  # at first no change
    torch.nn.init.normal_(model.last.weight)
    change = model(frames, action)
    assert change.shape == (5, 3, 9, 7)
    frames[:, -1, -1, -1] += 1
    assert (model(frames, action) != change).any(0).all()
    patches = Patches((3, 9, 7), 2, 16, 4)
    assert patches(frames).shape == (5, 2 * 3 * 2, 16)
    swapped = patches(torch.cat([frames[:, 3:], frames[:, :3]], 1))  # positions tell which frame is which
    assert not torch.allclose(swapped.unflatten(1, (2, 6)).flip(1).flatten(1, 2), patches(frames))


# ---- several frames ahead ---------------------------------------------------------------------------------------


class Hears(nn.Module):
    """Forward model whose change is the first number of what it is told."""

    def forward(self, frames: Tensor, told: Tensor) -> Tensor:
        return told[:, :1]


def two_lifetimes() -> Steps:
    """An episode of three steps and one cut by the window; one cut by padding."""
    steps = numbered(2, 6, [[2], []])
    return steps._replace(mask=np.array([[True] * 6, [True] * 4 + [False] * 2]))


@pytest.mark.parametrize("ahead", [1, 2, 3, 4])
def test_each_prediction_is_compared_with_its_own_frame(ahead, monkeypatch):
    lam, steps = LAM(LINE, FOUR, LAMConfig(**SMALL, ahead=ahead)), two_lifetimes()
    lam.ahead = Hears()
    told = torch.randn(steps.mask.sum(), 4, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(lam, "infer", lambda context, following: found_at(told))
    change = np.zeros(steps.mask.shape)
    change[steps.mask] = told[:, 0]
    expected = []
    for row, place in zip(*steps.mask.nonzero(), strict=True):
        guess, errors = steps.obs[row, place, 0], []
        for later in range(place, min(place + ahead, 6)):
            if not steps.mask[row, later] or (later > place and steps.first[row, later]):
                break
            guess = guess + change[row, later]
            errors.append((guess - steps.next_obs[row, later, 0]) ** 2)
        expected.append(np.mean(errors))
    assert lam.loss(lam.tensors(steps))["reconstruction"].item() == pytest.approx(np.mean(expected), rel=1e-5)


def test_a_perfect_model_has_no_error_at_the_end_of_an_episode(monkeypatch):
    lam, steps = LAM(LINE, FOUR, LAMConfig(**SMALL, ahead=4)), two_lifetimes()
    lam.ahead = Hears()
    told = torch.as_tensor((steps.next_obs - steps.obs)[steps.mask])
    monkeypatch.setattr(lam, "infer", lambda context, following: found_at(told))
    assert lam.loss(lam.tensors(steps))["reconstruction"] == 0


def test_context_of_a_later_prediction_ends_with_the_predictions_before(monkeypatch):
    lam, seen = LAM(LINE, FOUR, LAMConfig(**SMALL, ahead=3, earlier=1)), []

    class Remembers(Hears):
        def forward(self, frames, told):
            seen.append(frames.tolist())
            return super().forward(frames, told)

    lam.ahead = Remembers()
    monkeypatch.setattr(lam, "infer", lambda context, following: found_at(torch.full((3, 4), 0.25)))
    lam.loss(lam.tensors(numbered(1, 3, [[]])))
    assert seen == [[[0, 0], [0, 1], [1, 2]], [[0, 0.25], [1, 1.25]], [[0.25, 0.5]]]


def test_the_usual_loss_is_that_of_one_frame():
    torch.manual_seed(0)
    lam, steps = LAM(*IMAGES["rows-first"], LAMConfig(**SMALL)), lifetimes("rows-first")
    torch.nn.init.normal_(lam.ahead.last.weight)
    tensors = lam.tensors(steps)
    lam.fit_normalization(tensors)
    obs, after = (torch.as_tensor(images).flatten(0, 1).movedim(-1, 1) / 255 - 0.5 for images in steps[::8][:2])
    step = (after - obs).pow(2).mean().sqrt()
    raw = lam.to_latent(lam.inverse(after - obs))
    found = lam.eval().quantizer(raw)
    expected = ((obs + lam.ahead(obs, found.vectors) - after) / step).pow(2).mean()
    terms = lam.loss(tensors)
    assert terms.keys() == {"reconstruction", "commitment"}
    torch.testing.assert_close(terms["reconstruction"], expected)
    torch.testing.assert_close(terms["commitment"], found.loss)


# ---- skills -----------------------------------------------------------------------------------------------------


def test_skills_are_of_the_frame_k_steps_later_or_the_last_one():
    lam = LAM(LINE, FOUR, LAMConfig(**SMALL, hierarchy=3))
    _, following = lam.read_all(lam.tensors(two_lifetimes()))
    assert following.tolist() == [
        *([1, 2.5], [2, 2.5], [2.5, 2.5], [4, 6], [5, 6], [6, 6]),
        *([7, 9], [8, 10], [9, 10], [10, 10]),
    ]


def test_skills_read_changes_in_their_own_unit():
    """In that of one step, long ones would all lie at the limit."""
    lam, speed = LAM(PLANE, FOUR, LAMConfig(**{**SMALL, "window": 40}, hierarchy=20)), np.array([[1, 3], [2, 4]])
    obs = (np.arange(41)[:, None] * speed[:, None]).astype(np.float32)  # (2, 41, 2), moving at a constant speed
    zeros = np.zeros((2, 40))
    tensors = lam.tensors(stack_steps(obs[:, :-1], zeros.astype(int), zeros, obs[:, 1:], zeros > 0, zeros > 0))
    lam.fit_normalization(tensors)
    seen = []
    lam.skill.inverse.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    lam.infer(*lam.read_all(tensors))
    whole = seen[0].unflatten(0, (2, 40))[:, :21]  # 20 steps follow these
    np.testing.assert_allclose(whole[1] / whole[0], np.broadcast_to([2, 4 / 3], (21, 2)), rtol=1e-3)


def reached(lam: LAM, term: Tensor) -> set[str]:
    """Networks that a gradient of a loss reaches, those of skills as "skill.inverse" and so on."""
    lam.zero_grad()
    term.backward(retain_graph=True)
    names = [name for name, weight in lam.named_parameters() if weight.grad is not None and weight.grad.any()]
    return {".".join(name.split(".")[: 1 + name.startswith("skill.")]) for name in names}


@pytest.mark.parametrize("quantizer", ["none", "vq", "residual-vq"])
def test_skills_have_a_loss_of_their_own_and_serve_that_of_each_step(quantizer):
    lam, steps = build("plane", "hierarchy", quantizer=quantizer)
    terms = lam.train().loss(lam.tensors(steps))
    assert terms.keys() == {"reconstruction", "commitment", "skill", "skill_commitment"}
    inverse = {"skill.inverse", "skill.to_latent"}
    assert reached(lam, terms["skill"]) == {*inverse, "skill.ahead"}
    assert reached(lam, terms["reconstruction"]) == {*inverse, "inverse", "to_latent", "ahead"}
    if quantizer != "none":
        assert reached(lam, terms["skill_commitment"]) == inverse
        assert terms["commitment"] > 0
        assert {"inverse", "to_latent"} <= reached(lam, terms["commitment"])


def test_skills_are_learned():
    """They tell where the agent is after some steps, in units of the usual change until then."""
    torch.manual_seed(0)
    lam = LAM(PLANE, FOUR, LAMConfig(**{**SMALL, "width": 32, "codes": 32}, hierarchy=3)).train()
    tensors = lam.tensors(play())
    lam.fit_normalization(tensors)
    optimizer = torch.optim.AdamW(lam.parameters(), lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        sum(lam.loss(tensors).values()).backward()
        optimizer.step()
    found = lam.measure(play(seed=1))
    assert found["skill_copy"] == pytest.approx(1, abs=0.15)
    assert found["skill"] < 0.3
    assert found["reconstruction"] < 0.3
    assert found["dead_codes"][0] == 32 - found["used_codes"][0]


# ---- training and labels ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantizer", ["vq", "none"])
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_every_weight_learns(kind, name, quantizer):
    lam, steps = build(kind, name, quantizer=quantizer)
    tensors = lam.train().tensors(steps)
    lam.fit_normalization(tensors)
    optimizer = torch.optim.SGD(lam.parameters(), lr=0.1)
    for _ in range(2):  # the first step makes the zero weights of last layers others
        optimizer.zero_grad()
        sum(lam.loss(tensors).values()).backward()
        optimizer.step()
    assert [name for name, weight in lam.named_parameters() if weight.grad is None or not weight.grad.any()] == []


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_labels_of_an_episode_do_not_depend_on_others(kind, name):
    """Also of its first and last step, though skills and earlier frames are those of other steps."""
    lam, steps = build(kind, name, quantizer="none")
    ended = np.zeros(steps.mask.shape, bool)
    ended[:, [3, 7]] = True
    steps = steps._replace(first=np.roll(ended, 1, 1) | steps.start, terminated=ended, truncated=ended & False)
    whole, alone = lam.label(steps), lam.label(steps.window(4, 8))
    for column in lam.columns:
        np.testing.assert_allclose(whole[column][:, 4:8], alone[column], atol=1e-5)
    shorter = lam.label(steps._replace(mask=np.arange(steps.mask.shape[1]) < np.full((8, 1), 6)))
    assert not any(value[:, 6:].any() for value in shorter.values())
    np.testing.assert_allclose(shorter[LATENT][:, :3], whole[LATENT][:, :3], atol=1e-5)


def test_bounded_predictions_are_images():
    lam, steps = build("rows-first", "bounded")
    torch.nn.init.normal_(lam.ahead.last.weight, std=50)
    context, _ = lam.read_all(lam.tensors(steps))
    guess = lam.guess(context, torch.randn(len(context), 4))
    assert 0.49 < guess.abs().max() <= 0.5


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    return collect(SHOWN, "noise", folder / "videos.h5", tasks=range(4), streams=2, episodes=1)


@pytest.mark.parametrize("name", ON_IMAGES)
def test_what_is_trained_is_loaded_and_labels_a_store(videos, tmp_path, name):
    settings = {**SMALL, **ON_IMAGES[name], "updates": 2, "batch_size": 4, "threads": 1}
    trained = train("lam", SHOWN, tmp_path / "lam", histories=videos, settings=settings, device="cpu", quiet=True)
    loaded = Annotator.from_pretrained(tmp_path / "lam", device="cpu")
    assert loaded.weights_sha256 == trained.weights_sha256
    skills = (SKILL,) if "hierarchy" in settings else ()
    assert loaded.columns == (LATENT, RAW, CODE, *skills)
    path = tmp_path / "videos.h5"
    path.write_bytes(videos.read_bytes())
    with HistoryStore(path) as store:
        plain = store[2]
        assert store.annotate(loaded.columns, loaded)
        assert all(np.array_equal(store[2].extras[column], trained(plain)[column]) for column in loaded.columns)
        quality = trained.measure(plain)
    assert quality["dead_codes"] == [6 - quality["used_codes"][0]]
    assert ("skill" in quality) == ("hierarchy" in settings)


def test_checkpoints_without_these_fields_are_the_first_model():
    old = ("width", "latent", "quantizer", "codes", "levels", "commitment", "earlier", "differences", "window")
    config = LAMConfig()
    assert LAMConfig.from_json({name: getattr(config, name) for name in old}) == config
    names = {name.split(".")[0] for name in LAM(PLANE, FOUR, config).state_dict()}
    assert names == {"step", "frames", "inverse", "to_latent", "quantizer", "ahead"}


def test_damaged_skills_are_refused():
    lam, _ = build("plane", "hierarchy")
    lam.validate()
    lam.skill.step[0] = 0
    one_line(lam.validate, ValueError, "usual change in a skill", "damaged")


BYTES = spaces.Box(0, 255, (9, 9, 3), np.uint8)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: LAMConfig(encoder="resnet"), ("encoder='resnet'", "cnn, vit")),
        (lambda: LAMConfig(encoder="vit", width=10), ("width=10", "multiple of heads=4")),
        (lambda: LAMConfig(ahead=9), ("ahead=9", "window=8", "longer window")),
        (lambda: LAMConfig(ahead=0), ("ahead=0", "1")),
        (lambda: LAMConfig(earlier=8), ("earlier=8", "window=8", "longer window")),
        (lambda: LAMConfig(hierarchy=20), ("hierarchy=20", "window=8")),
        (lambda: LAMConfig(hierarchy=1), ("hierarchy=1", "2 steps or more")),
        (lambda: LAMConfig(hierarchy=2, decoder=True), ("decoder=true", "hierarchy=2", "leave one out")),
        (lambda: LAMConfig(patch=0), ("patch=0", "1")),
        (lambda: LAM(PLANE, FOUR, LAMConfig(encoder="vit")), ("encoder='vit' is for images", "Box(", "leave it out")),
        (lambda: LAM(PLANE, FOUR, LAMConfig(bounded=True)), ("bounded=true is for images",)),
    ],
)
def test_bad_arguments_are_one_line(call, words):
    one_line(call, ValueError, *words)
