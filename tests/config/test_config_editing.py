"""Setting keys keeps a file's comments and layout, and never makes a file worse."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ubq.config.editing import edited, set_values
from ubq.config.load import ConfigError, load_config
from ubq.errors import UsageError

FILE = Path("ubq.toml")
TEXT = """\
# mine
extends = "smoke"   # small

[qat]   # training
epochs = 3 # few
lr = 1e-4

[quant]
keep_float = [
    "a", # first
]
"""


def test_comments_and_layout_stay() -> None:
    FILE.write_text(TEXT)
    set_values(FILE, {"qat.epochs": "30"})
    assert FILE.read_text() == TEXT.replace("epochs = 3 #", "epochs = 30 #")


@pytest.mark.parametrize(
    ("key", "value", "written"),
    [
        ("seed", "4", 4),
        ("run.name", "2024", "2024"),
        ("qat.diffusion.lr", "2e-4", 2e-4),
        ("train.autoencoder.epochs", 3, 3),
        ("quant.keep_float", "b,c", ["b", "c"]),
        ("quant.keep_float", (), []),
        ("export.name", "x", "x"),
    ],
)
def test_new_keys_land_in_their_table(key: str, value: object, written: object) -> None:
    FILE.write_text(TEXT)
    set_values(FILE, {key: value})
    node: object = tomllib.loads(FILE.read_text())
    for part in key.split("."):
        assert isinstance(node, dict)
        node = node[part]
    assert node == written
    assert "# training" in FILE.read_text()
    load_config(environ={})


def test_dotted_and_inline_tables_are_followed() -> None:
    FILE.write_text('extends = "smoke"\nqat.epochs = 1\nrun = {name = "a"}\n')
    set_values(FILE, {"qat.lr": 1e-3, "run.name": "b", "qat.decoders.epochs": 2})
    config = load_config(environ={}).config
    assert (config.qat.lr, config.run.name, config.qat.epochs, config.qat.decoders.epochs) == (1e-3, "b", 1, 2)


def test_a_missing_file_is_begun() -> None:
    set_values(FILE, {"extends": "smoke"})
    assert load_config(environ={}).preset == "smoke"


@pytest.mark.parametrize(
    ("key", "value"), [("qat.epoch", "3"), ("qat.epochs", "-1"), ("qat", "3"), ("export.steps", "99"), ("seed.x", "1")]
)
def test_a_change_that_is_a_mistake_leaves_the_file_alone(key: str, value: str) -> None:
    FILE.write_text(TEXT)
    with pytest.raises(ConfigError) as caught:
        set_values(FILE, {key: value})
    assert caught.value.findings[0].file == "ubq.toml"
    assert FILE.read_text() == TEXT
    assert [f.name for f in Path().iterdir()] == ["ubq.toml"]


def test_mistakes_elsewhere_do_not_stand_in_the_way() -> None:
    FILE.write_text("seed = -1\n[qat]\nlr = 0\n")
    set_values(FILE, {"seed": 3})
    assert FILE.read_text() == "seed = 3\n[qat]\nlr = 0\n"


@pytest.mark.parametrize("content", [b"a = = 1\n", b"\xff"])
def test_a_broken_file_is_not_touched(content: bytes) -> None:
    FILE.write_bytes(content)
    with pytest.raises(UsageError):
        set_values(FILE, {"seed": 3})
    assert FILE.read_bytes() == content


layouts = st.lists(
    st.sampled_from(
        [
            "seed = 1",
            "qat.lr = 1.0",
            "qat.decoders.epochs = 1",
            "[qat]",
            "[qat.decoders]",
            "[qat.diffusion] # last",
            "epochs = 2",
            'run = {name = "a"}',
            "# note",
            "",
            "[[qat]]",
            "[run]",
            "warmup = [\n 0.1, # a\n]",
            "qat = 3",
        ]
    ),
    max_size=8,
).map("\n".join)


@settings(max_examples=150)
@given(layouts, st.sampled_from(["seed", "qat.lr", "qat.decoders.epochs", "qat.diffusion.epochs", "run.name"]))
def test_any_layout_gets_the_key_and_nothing_else_or_is_refused(text: str, key: str) -> None:
    try:
        result = edited(text, {key: 7})
    except UsageError:
        return
    expected = tomllib.loads(text)
    table = expected
    for part in key.split(".")[:-1]:
        table = table.setdefault(part, {})
    table[key.rpartition(".")[2]] = 7
    assert tomllib.loads(result) == expected
    assert all(comment in result for comment in ("# note", "# last", "# a") if comment in text)


def test_a_file_keeps_its_mark_line_ends_permissions_and_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real.toml", tmp_path / "ubq.toml"
    real.write_bytes(b'\xef\xbb\xbfextends = "demo"\r\n# note\r\n[qat]\r\nepochs = 3\r\n')
    real.chmod(0o640)
    link.symlink_to(real)
    set_values(link, {"qat.epochs": "7", "seed": "2"})
    content = real.read_bytes()
    assert content.startswith(b"\xef\xbb\xbfextends")
    assert content.count(b"\n") == content.count(b"\r\n") >= 5
    assert b"epochs = 7\r\n" in content
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_file_in_another_encoding_is_to_be_saved_as_utf_8(encoding: str) -> None:
    content = 'description = "é"\n'.encode(encoding)
    FILE.write_bytes(content)
    with pytest.raises(UsageError, match=r"ubq\.toml: not UTF-8 text \(save it as UTF-8\)$") as caught:
        set_values(FILE, {"seed": 1})
    assert caught.value.fix == "save it as UTF-8"
    with pytest.raises(ConfigError, match=r"ubq\.toml: not UTF-8 text \(save it as UTF-8\)$"):
        load_config(environ={})
    assert FILE.read_bytes() == content
