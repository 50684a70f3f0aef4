"""Mistakes: all at once, each with its place, what was given, what is allowed and a way out."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ubq.config import keys, layers
from ubq.config.load import ConfigError, Finding, load_config, write_frozen

TEN_MISTAKES = """\
extends = "smoke"
seed = -1
devise = "cpu"

[run]
keep_checkpoints = 1

[data]
family = "curvefalt-a"

[model]
dim_mults = "1,2,2,2"
seismic_latent = 20

[qat]
epochs = "50"
warmup = [
    0.5,
    0.1,
    0.9,
]
batchsize = 4

[export]
solver = "ddpm"
steps = 5
"""


def findings(*args: object, **kwargs: object) -> list[Finding]:
    with pytest.raises(ConfigError) as caught:
        load_config(*args, **kwargs)  # type: ignore[arg-type]
    return list(caught.value.findings)


def of(text: str) -> dict[str, Finding]:
    Path("ubq.toml").write_text(text)
    return {f.key: f for f in findings(environ={})}


def test_ten_mistakes_are_ten_findings() -> None:
    found = of(TEN_MISTAKES)
    lines = {key: f.line for key, f in found.items()}
    assert lines == {
        "seed": 2,
        "devise": 3,
        "run.keep_checkpoints": 6,
        "data.family": 9,
        "model.dim_mults": 12,
        "model.seismic_latent": 13,
        "qat.epochs": 16,
        "qat.warmup": 17,
        "qat.batchsize": 22,
        "export.steps": 26,
    }
    assert {f.file for f in found.values()} == {"ubq.toml"}
    assert found["seed"].given == "-1"
    assert found["seed"].allowed == "integer >= 0"
    assert found["devise"].suggestion == "did you mean device?"
    assert found["data.family"].suggestion == 'did you mean "curvefault-a"?'
    assert found["model.dim_mults"].allowed.startswith("list")
    assert found["qat.epochs"].given == '"50"'
    assert found["qat.epochs"].suggestion == "without quotes: 50"
    assert found["qat.batchsize"].suggestion == "did you mean qat.batch_size?"
    assert "32" in found["export.steps"].allowed


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("seed = 1.5", "seed"),
        ("seed = true", "seed"),
        ("seed = 1979-05-27", "seed"),
        ("qat = 3", "qat"),
        ("qat = []", "qat"),
        ("[seed]\nx = 1", "seed"),
        ("[[model]]\nencoder_dim = 64", "model"),
        ("[qat]\nlr = nan", "qat.lr"),
        ("[qat]\nlr = inf", "qat.lr"),
        ("[model]\ndim_mults = []", "model.dim_mults"),
        ("[model]\nencoder_dim = 99999999999999999999", "model.encoder_dim"),
        ("[quant]\nconvert_conv1d = 1", "quant.convert_conv1d"),
        ("[data]\nnormalization = [1, 2, 3]", "data.normalization"),
        ('[data]\nnormalization = "openfw"', "data.normalization"),
        ("[qat.decoders]\nbatch_size = 0", "qat.decoders.batch_size"),
        ("extends = 3", "extends"),
        ('extends = ["demo", 3]', "extends"),
        ('extends = "demmo"', "extends"),
        ('extends = "./gone.toml"', "extends"),
        ('"a.b" = 3', "a.b"),
        ("[qat.encoder]\nlr = 1.0", "qat.encoder"),
        ("[train.seismic]\nbatch_size = 1", "train.seismic.batch_size"),
    ],
)
def test_one_mistake_is_one_finding(text: str, key: str) -> None:
    assert list(of(text)) == [key]


def test_the_wrong_one_of_several_choices_gets_the_suggestion() -> None:
    found = of('extends = "smoke"\n[export]\nformats = ["torchscript", "onx"]\n')
    assert found["export.formats"].suggestion == 'did you mean "onnx"?'


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[quant]\nvelocity = false\nseismic = false\ndiffusion = false", "quant.diffusion"),
        ("[export]\nsteps = 300", "export.steps"),
        ("[export]\nstep_choices = [5, 1000]", "export.step_choices"),
        ('[export]\nsolver = "ddpm"\nsteps = 20', "export.steps"),
        ('[export]\nformats = ["onnx"]', "export.formats"),
        ('[export]\nname = "../x"', "export.name"),
        ('[run]\nname = "a/b"', "run.name"),
        (f'[export]\nname = "{"n" * 81}"', "export.name"),
        (f'[export]\nname = "{"图" * 27}"', "export.name"),  # 81 bytes
        (f'[run]\nname = "{"n" * 81}"\n[export]\nname = ""', "run.name"),  # which the exported files would have
        (f'[run]\nname = "{"n" * 201}"\n[export]\nname = "n"', "run.name"),
        ('[data]\ntrain_seismic = "x"', "data.train_seismic"),
        ("[data]\nnormalization = [5, 1, 1500, 4500]", "data.normalization"),
        ("[model]\nencoder_dim = 500", "model.encoder_dim"),
        ("[model]\nunet_dim = 12", "model.unet_dim"),
        ("[qat]\nwarmup = [0.3, 0.2, 0.5]", "qat.warmup"),
    ],
)
def test_contradictions_are_found(text: str, key: str) -> None:
    assert key in of(text)


def test_the_longest_names_are_those_of_files_that_can_be_made() -> None:
    for text in (f'[run]\nname = "{"n" * 200}"\n[export]\nname = "{"n" * 80}"', f'[run]\nname = "{"n" * 80}"'):
        Path("ubq.toml").write_text(f'extends = "smoke"\n{text}')
        load_config(environ={})


def test_a_contradiction_is_blamed_on_a_key_that_somebody_wrote() -> None:
    found = of('extends = "smoke"\n[model]\nnorm_groups = 3\n')
    assert list(found) == ["model.norm_groups"]
    assert found["model.norm_groups"].line == 3


def test_no_contradiction_is_made_up_from_a_value_that_was_set_aside() -> None:
    # 12 channels are fine with the 4 groups that were meant, not with the default 8.
    assert list(of('[model]\nunet_dim = 12\nnorm_groups = "4"\n')) == ["model.norm_groups"]


def test_a_missing_extra_is_found_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from ubq.config import extras

    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    found = of('extends = "smoke"\ntracking = "wandb"\n[export]\nformats = ["torchscript", "onnx"]\n')
    assert set(found) == {"tracking", "export.formats"}
    assert found["export.formats"].suggestion == "pip install 'ubq[onnx]'"
    assert found["export.formats"].line == 4


def test_findings_name_the_variable_and_the_option() -> None:
    found = findings("smoke", {"qat.epochs": "x"}, environ={"UBQ_QAT__LR": "-1", "UBQ_MODLE__X": "1"})
    assert {f.file: f.key for f in found} == {
        "--set qat.epochs": "qat.epochs",
        "UBQ_QAT__LR": "qat.lr",
        "UBQ_MODLE__X": "modle",
    }


def test_broken_toml_names_the_line() -> None:
    Path("ubq.toml").write_text("seed = 1\n[qat]\nepochs = = 3\n")
    (finding,) = findings(environ={})
    assert (finding.file, finding.line, finding.given) == ("ubq.toml", 3, "epochs = = 3")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a = " + b"[" * 100_000, b"seed = " + b"9" * 5000, b"\0"])
def test_unreadable_files_give_a_finding(content: bytes) -> None:
    Path("ubq.toml").write_bytes(content)
    assert findings(environ={})


def test_key_lines_follow_tomls_grammar() -> None:
    text = '# c\na = 1\nb = """\n[x]\nc = 2\n"""\n[t] # [no]\n"q.r" = [\n 1, # ]\n]\nu.v = {w = 3}\n[[l]]\nm = 1\n'
    assert layers.key_lines(text) == {
        ("a",): 2,
        ("b",): 3,
        ("t",): 7,
        ("t", "q.r"): 8,
        ("t", "u"): 11,
        ("t", "u", "v"): 11,
        ("t", "u", "v", "w"): 11,
        ("l",): 12,
        ("l", "m"): 13,
    }


def mistakes(*args: object, **kwargs: object) -> list[Finding]:
    """The findings, none where it loads; anything but a ConfigError escapes."""
    try:
        load_config(*args, **kwargs)  # type: ignore[arg-type]
    except ConfigError as error:
        return list(error.findings) or pytest.fail("an error without findings")
    return []


scalars = st.one_of(
    st.none().map(lambda _: ""),
    st.integers().map(str),
    st.floats().map(str),
    st.booleans().map(lambda b: str(b).lower()),
    st.text(max_size=8).map(keys.toml_value),
    st.sampled_from(["[]", "{}", "[[1], 2]", "{a = 1}", "1979-05-27", "07:32:00", '"', "[", "'''", "=", "\\"]),
)
tables = st.sampled_from(sorted({".".join(p) for p, k in keys.all_keys().items() if k.kind == "table"}))
names = st.one_of(
    st.sampled_from(sorted({p[-1] for p in keys.all_keys()})), st.text("abc_-.\"' ", min_size=1, max_size=6)
)
lines = st.one_of(
    st.tuples(names, scalars).map(lambda pair: f"{pair[0]} = {pair[1]}"),
    tables.map(lambda t: f"[{t}]"),
    tables.map(lambda t: f"[[{t}]]"),
    st.text(max_size=20),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.data())
def test_no_mutation_of_a_file_gives_a_traceback(data: st.DataObject) -> None:
    text = write_frozen(load_config("smoke", isolated=True).config).splitlines()
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(text) - 1))
        action = data.draw(st.sampled_from(["replace", "insert", "delete", "cut", "value"]))
        if action == "insert":
            text.insert(at, data.draw(lines))
        elif action == "delete":
            del text[at]
        elif action == "cut":
            text[at] = text[at][: data.draw(st.integers(0, len(text[at])))]
        elif action == "value":
            text[at] = text[at].partition("=")[0] + "= " + data.draw(scalars)
        else:
            text[at] = data.draw(lines)
    content = "\n".join(text).encode("utf-8", "surrogatepass")
    Path("ubq.toml").write_bytes(content)
    for finding in mistakes(environ={}):
        assert str(finding)
        assert finding.line is None or 1 <= finding.line <= len(content.splitlines()) + 1
        assert finding.allowed


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.one_of(st.sampled_from([".".join(p) for p in keys.all_keys()]), st.text(max_size=8)), st.text(max_size=12)
    )
)
def test_no_override_gives_a_traceback(overrides: dict[str, str]) -> None:
    assert all(f.allowed for f in mistakes("smoke", dict(overrides), isolated=True))


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("export.solver=dpmpp2m", "export.solver"),
        ("export.steps=10", "export.steps"),
        ("export.step_choices=[4]", "export.step_choices"),
        ("distill.teacher_steps=2", "distill.teacher_steps"),
        ("model.objective=noise", "model.objective"),
    ],
)
def test_a_distilled_unet_draws_in_its_own_steps_alone(setting: str, key: str) -> None:
    name, value = setting.split("=")
    given = {"distill.steps": "2", name: value}
    (found,) = findings("smoke", given, isolated=True)
    assert found.key == key
    assert load_config("smoke", {**given, "distill.steps": "0"}, isolated=True).config.distill.steps == 0


def test_solver_and_steps_of_a_distilled_unet_follow_from_it() -> None:
    config = load_config("smoke", {"distill.steps": "3"}, isolated=True).config
    assert (config.sampling.solver, config.sampling_steps, config.sampling.step_choices) == ("ddim", 3, ())
    for same in ({"export.solver": "ddim"}, {"export.steps": "3"}, {"export.step_choices": "[3]"}):
        assert load_config("smoke", {"distill.steps": "3", **same}, isolated=True).config.sampling == config.sampling
    plain = load_config("smoke", isolated=True).config
    assert (plain.sampling.sampler, plain.sampling_steps) == ("dpmpp2m", 10)
