"""Settings: how they are read, and that each has a type, a default and a meaning wherever they are listed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from icrl_agents import METHODS, collect, train
from icrl_agents.cli.help_settings import markdown, sections
from icrl_agents.cli.settings import read_toml
from icrl_agents.sources import SOURCES, make_source
from icrl_agents.training.config import TrainConfig, check_read, split_settings
from tests.conftest import one_line

ID = "icrl/Darkroom3x3-v0"
ROOT = Path(__file__).parents[2]
FRAGMENTS = ("of ", "and ", "in ", "the ", "or ", "by ", "with ", "to ")


@pytest.mark.slow
@pytest.mark.parametrize("method", [None, *METHODS])
def test_every_setting_has_a_phrase(method):
    found = sections(method)
    assert {section.title for section in found} >= {"Training", *(f"Source {name}" for name in SOURCES)}
    for section in found:
        for setting in section.settings:
            words = setting.meaning
            assert 8 < len(words) < 120, (section.title, setting)
            assert words[0].islower() or words.split()[0].isupper() or words.startswith(("CPU", "PyTorch")), setting
            assert not words.startswith(FRAGMENTS), (section.title, setting)
            assert setting.type
            assert setting.default


def test_a_methods_settings_are_those_of_its_config():
    (cad,) = (section for section in sections("cad") if section.title == "Method cad")
    default = METHODS["cad"].Config()
    assert {row.name: row.default for row in cad.settings}["slide"] == str(default.slide)
    assert len(cad.settings) == len(vars(default))
    one_line(lambda: sections("cda"), ValueError, "'cda'", "did you mean 'cad'")


def test_settings_of_every_source_are_listed_once(tmp_path):
    """Not again with each source, and so not with those that refuse them."""
    listed = [section.title for section in sections() for row in section.settings if row.name in ("changes", "late")]
    assert listed == ["Every source"] * 2
    for name, env_id in (("ppo", ID), ("sac", "icrl/PendulumMass-v0")):
        asked = {"source": name, "path": tmp_path / "never.h5", "streams": 1, "episodes": 1}
        refused = partial(collect, env_id, settings={"changes": 0.5}, **asked)
        one_line(refused, ValueError, "leave changes and late out")


def test_the_page_of_the_documentation_is_what_the_command_writes():
    assert (ROOT / "docs" / "settings.md").read_text() == markdown()


@pytest.mark.parametrize(("given", "read"), [(1e3, 1000), (100.0, 100), (7, 7)])
def test_whole_numbers_may_be_written_as_floats(given, read):
    config, agent, _ = split_settings("ad", ID, {"updates": given, "window": given * 1.0, "slide": 2})
    assert (config.updates, agent.window) == (read, read)
    assert isinstance(config.updates, int)
    assert make_source("ppo", ID, {"n_steps": 40.0}).settings.n_steps == 40


def test_other_floats_are_refused():
    one_line(lambda: split_settings("ad", ID, {"updates": 1.5}), ValueError, "updates", "int")


def test_a_learning_rate_of_zero_trains_nothing_and_is_refused():
    one_line(lambda: TrainConfig(lr=0.0), ValueError, "lr=0.0")


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "c.toml"
    path.write_bytes(b"\xef\xbb\xbflr = 1e-3\n")
    assert read_toml(path) == {"lr": 1e-3}


@pytest.mark.parametrize(
    ("method", "own", "way"),
    [("idt", {"order": "return"}, "give order='time'"), ("dpt", {"layout": "set"}, "give layout='steps'")],
)
@pytest.mark.parametrize("setting", ["blind", "postpone", "source.changes", "source.late"])
def test_what_asks_for_an_order_is_refused_where_windows_have_none(method, own, way, setting):
    one_line(lambda: split_settings(method, ID, {**own, setting: 0.5}), ValueError, f"{setting}=0.5", way)
    name, value = way.split()[1].split("=")
    split_settings(method, ID, {name: value.strip("'"), setting: 0.5})
    split_settings(method, ID, {**own, setting: 0.0})


def test_histories_of_changing_tasks_are_refused_where_windows_have_no_order(tmp_path):
    """Whichever of the files has them."""
    collection = {"streams": 1, "episodes": 3}
    paths = [
        collect("icrl/Darkroom-v0", "posterior", tmp_path / f"{share}.h5", settings={"changes": share}, **collection)
        for share in (0.0, 0.5)
    ]
    settings = {"updates": 1, "batch_size": 2, "order": "return"}
    given = {"histories": paths, "settings": settings, "device": "cpu", "quiet": True}
    one_line(
        lambda: train("idt", "icrl/Darkroom-v0", tmp_path / "a", **given),
        ValueError,
        "source.changes=0.5",
        "give order='time'",
    )


@pytest.mark.parametrize(
    ("method", "settings", "words"),
    [
        ("ad", {"blind": 0.5, "dynamics": True}, ("blind=0.5", "dynamics=true")),
        ("dt", {"blind": 0.5}, ("blind=0.5", "dt does not read")),
        ("bc", {"blind": 0.5}, ("blind=0.5", "bc does not read")),
        ("lam", {"blind": 0.5}, ("blind=0.5", "lam does not read")),
        ("vpt", {"renumber": True}, ("renumber=true", "vpt does not read")),
        ("bc", {"renumber": True}, ("renumber=true", "bc does not read")),
        ("la-bc", {"renumber": True}, ("renumber=true", "la-bc does not read")),
        ("prompted-dt", {"renumber": True, "latent": 4}, ("renumber=true", "prompted-dt does not read")),
        ("dt", {"postpone": 0.5}, ("postpone=0.5", "dt sees one at a time")),
        ("bc", {"postpone": 0.5}, ("postpone=0.5", "bc sees one at a time")),
    ],
)
def test_what_a_method_would_ignore_or_learn_wrongly_is_refused(method, settings, words):
    one_line(lambda: split_settings(method, ID, settings), ValueError, *words, "leave")


@pytest.mark.parametrize(
    ("method", "settings", "words"),
    [
        ("lam", {"patch": 8}, ("patch=8", "encoder='vit'")),
        ("lam", {"layers": 6}, ("layers=6", "encoder='vit'")),
        ("lam", {"levels": 3}, ("levels=3", "quantizer='residual-vq'")),
        ("lam", {"codes": 8, "quantizer": "none"}, ("codes=8", "a quantizer")),
        ("lam", {"commitment": 0.5, "quantizer": "fsq"}, ("commitment=0.5", "'residual-vq'")),
        ("lam", {"label_weight": 2.0}, ("label_weight=2.0", "decoder=true")),
        ("la-bc", {"levels": 3, "predicts": "latents"}, ("levels=3", "predicts='codes'")),
        ("prompted-dt", {"prompt": 60, "demos": 0}, ("prompt=60", "demonstrations")),
        ("prompted-dt", {"burstiness": 0.5, "demos": 0}, ("burstiness=0.5", "demonstrations")),
        ("prompted-dt", {"codes": 8}, ("codes=8", "latent actions")),
        ("prompted-dt", {"predicts": "latents"}, ("predicts='latents'", "latent actions")),
        ("bc", {"precision": "bf16"}, ("precision='bf16'", "no effect on bc")),
        ("vpt", {"compile": True}, ("compile=True", "no effect on vpt")),
        ("lam", {"eval_every": 100}, ("eval_every=100", "no effect on lam")),
        ("vpt", {"eval_episodes": 9}, ("eval_episodes=9", "no effect on vpt")),
        ("headless-ad", {"acting_temperature": 0.5, "choice": "mode"}, ("acting_temperature=0.5", "choice='sample'")),
        ("ad", {"blind_after": 9}, ("blind_after=9", "without blind or postpone")),
    ],
)
def test_what_the_other_settings_leave_without_effect_is_refused(tmp_path, method, settings, words):
    call = lambda: train(method, ID, tmp_path / "a", settings=settings, device="cpu", quiet=True)  # noqa: E731
    one_line(call, ValueError, *words, "leave it out")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("lam", {"levels": 2, "label_weight": 1.0}),
        ("lam", {"levels": 3, "quantizer": "residual-vq", "label_weight": 2.0, "decoder": True}),
        ("prompted-dt", {"demos": 0, "prompt": 240}),
        ("ad", {"blind_after": 9, "postpone": 0.5}),
        ("lam", {"eval_every": 0, "precision": "fp32", "compile": False}),
        ("ad", {"blind_after": 9, "blind": 0.0}),
    ],
)
def test_defaults_and_what_is_read_are_taken(method, settings):
    check_read(method, split_settings(method, ID, settings)[1], settings)


def test_fsq_has_the_numbers_of_codes_of_its_paper():
    given = {"quantizer": "fsq", "codes": 200}
    one_line(lambda: split_settings("lam", ID, given), ValueError, "codes=200", "240, 1000")
    assert split_settings("lam", ID, {**given, "codes": 240})[1].codes == 240


@pytest.mark.parametrize(
    ("settings", "recorded", "words"),
    [
        ({"episodes": 9}, True, ("episodes=9", "h.h5 holds lifetimes of 2 episodes")),
        ({"streams": 9}, True, ("streams=9", "one task at a time")),
        ({"streams": 9}, False, ("streams=9", "one task at a time")),
    ],
)
def test_settings_of_lifetimes_are_refused_where_none_are_made(tmp_path, settings, recorded, words):
    path = collect("icrl/Darkroom3x3-v0", "posterior", tmp_path / "h.h5", streams=1, episodes=2) if recorded else None
    given = {"histories": path, "settings": {"updates": 1, "batch_size": 2, **settings}, "device": "cpu", "quiet": True}
    one_line(lambda: train("ad", "icrl/Darkroom3x3-v0", tmp_path / "a", **given), ValueError, *words, "leave it out")
    assert not (tmp_path / "a").exists()


def test_the_length_of_lifetimes_is_that_of_all_files(tmp_path):
    env_id, settings = "icrl/Darkroom3x3-v0", {"updates": 1, "batch_size": 2, "episodes": 2}
    files = [
        collect(env_id, "posterior", tmp_path / f"{count}.h5", streams=1, episodes=count, seed=count)
        for count in (2, 5)
    ]
    given = {"histories": files, "settings": settings, "device": "cpu", "quiet": True}
    words = ("episodes=2", "5.h5 holds lifetimes of 5 episodes", "leave it out")
    one_line(lambda: train("ad", env_id, tmp_path / "a", **given), ValueError, *words)
