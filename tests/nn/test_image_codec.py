"""Images of bytes: every form of them is embedded alike, none is predicted."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from icrl_agents.agents.agent import ICAgent
from icrl_agents.methods import METHODS
from icrl_agents.nn.codecs import make_codec
from icrl_agents.nn.codecs.image import ImageCodec
from icrl_agents.nn.codecs.integers import IntegerVectorCodec
from icrl_agents.nn.vision.frames import Frames
from tests.conftest import one_line
from tests.fakes import SMALL

CPU = torch.device("cpu")


def image(*shape: int, high: int = 255) -> spaces.Box:
    return spaces.Box(0, high, shape, np.uint8)


def codec_of(space: spaces.Box) -> ImageCodec:
    torch.manual_seed(0)
    return make_codec(space, 6, predicts=False)


@torch.no_grad()
def test_the_order_of_the_axes_changes_nothing():
    pixels = np.random.default_rng(0).integers(256, size=(2, 5, 20, 17, 3)).astype(np.uint8)
    last, first = codec_of(image(20, 17, 3)), codec_of(image(3, 20, 17))
    one, other = last.tensor(pixels, CPU), first.tensor(np.moveaxis(pixels, -1, 2), CPU)
    assert one.dtype == torch.uint8
    assert last.embed(one).shape == (2, 5, 6)
    torch.testing.assert_close(last.embed(one), first.embed(other))
    torch.testing.assert_close(last.embed(one[1, 3]), last.embed(one)[1, 3])


@torch.no_grad()
def test_an_image_without_channels_has_one():
    pixels = np.random.default_rng(0).integers(256, size=(4, 20, 17)).astype(np.uint8)
    grey, one = codec_of(image(20, 17)), codec_of(image(20, 17, 1))
    torch.testing.assert_close(grey.embed(grey.tensor(pixels, CPU)), one.embed(one.tensor(pixels[..., None], CPU)))


@pytest.mark.parametrize("shape", [(7, 7, 3), (32, 32, 3), (64, 64, 3), (3, 210, 160), (84, 84, 4), (84, 84)], ids=str)
@torch.no_grad()
def test_vectors_tell_where_a_thing_is(shape):
    codec, pixels = codec_of(image(*shape)), np.zeros((3, *shape), np.uint8)
    rows, columns = (shape[1], shape[2]) if shape[0] == 3 else shape[:2]
    for number, (row, column) in enumerate([(0, 0), (rows - 2, 0), (rows - 2, columns - 2)]):
        place = (slice(None), slice(row, row + 2), slice(column, column + 2))
        pixels[(number, *(place if shape[0] == 3 else place[1:]))] = 255
    vectors = codec.embed(codec.tensor(pixels, CPU))
    assert torch.pdist(vectors).min() > 1e-4  # with PyTorch's default weights 1e-6 in the largest image


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 10), (100, 151)])
@torch.no_grad()
def test_images_of_all_ranges_are_seen_alike(low, high):
    """An image of zeros and ones would else be one shade of black, of which nothing is learned."""
    space, usual = spaces.Box(low, high, (20, 17, 3), np.uint8), image(20, 17, 3)
    shade = np.random.default_rng(0).integers(2, size=(5, 20, 17, 3)).astype(np.uint8)
    narrow, wide = low + shade * np.uint8(high - low), shade * np.uint8(255)
    one, other = codec_of(space), codec_of(usual)
    torch.testing.assert_close(one.embed(one.tensor(narrow, CPU)), other.embed(other.tensor(wide, CPU)))
    frames = Frames(space)(torch.as_tensor(narrow))
    assert torch.equal(frames, Frames(usual)(torch.as_tensor(wide)))
    assert frames.unique().tolist() == [-0.5, 0.5]


def test_small_boxes_of_bytes_are_numbers_and_large_vectors_of_bytes_are_refused():
    assert isinstance(make_codec(image(4, 4, 4), 8), IntegerVectorCodec)
    assert isinstance(make_codec(image(8, 8), 8), IntegerVectorCodec)
    assert isinstance(make_codec(image(8, 9), 8, predicts=False), ImageCodec)
    one_line(lambda: make_codec(image(128), 8), ValueError, "no codec", "image of bytes")


def test_images_are_not_predicted():
    for name, settings in (("ad", {"dynamics": True}), ("cad", {"window": 40, "slide": 20})):
        method = METHODS[name]
        config = method.Config(**{**SMALL, **settings})
        one_line(
            lambda method=method, config=config: method(image(9, 9, 3), spaces.Discrete(3), config),
            ValueError,
            "dynamics=False",
            "other than cad",
        )


def test_bad_images_are_one_line():
    codec = codec_of(image(9, 9, 3, high=200))
    codec.check(np.full((2, 9, 9, 3), 200, np.uint8), 2, "obs")
    one_line(lambda: codec.check(np.full((2, 9, 9, 3), 201, np.uint8), 2, "obs"), ValueError, "obs is outside")
    one_line(lambda: codec.check(np.zeros((9, 9, 3)), None, "obs"), ValueError, "dtype float64", "uint8")
    one_line(lambda: codec.check(np.zeros((9, 9), np.uint8), None, "obs"), ValueError, "shape (9, 9)")


def test_an_agent_acts_on_images_and_is_the_same_after_loading(tmp_path):
    env = gymnasium.make("icrl/PixelGrid-v0", level=3)
    torch.manual_seed(0)
    agent = ICAgent(METHODS["ad"](env.observation_space, env.action_space, METHODS["ad"].Config(**SMALL))).eval()
    agent.save_pretrained(tmp_path / "agent")
    actions = []
    for one in (agent, ICAgent.from_pretrained(str(tmp_path / "agent"))):
        one.reset(env, seed=0)
        obs, _ = env.reset(seed=0)
        for _ in range(30):
            actions.append(one.act(obs))
            obs, reward, terminated, truncated, info = env.step(actions[-1])
            one.observe(obs, reward, terminated, truncated, info)
            if terminated or truncated:
                obs, _ = env.reset()
    assert actions[:30] == actions[30:]
