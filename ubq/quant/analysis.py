"""What is int8: counted on the model, and read off an exported file's own graph.

Rules of what counts as int8: ``weight_layers`` are convolutions, transposed
convolutions and linears; ``parameters`` the elements of their weights; ``macs`` multiply-accumulates
with a weight in one U-Net step plus both decoders, for one sample; products of two activations stand
apart as ``activation_macs``. Only what is executed counts. Identities are no modules: they compute
nothing.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ubq.config.schema import QuantConfig
from ubq.errors import StageError
from ubq.i18n import gettext as _
from ubq.model import ModelSizes, UBDiff
from ubq.quant.generator import Generator, Recipe, deployable, part_of, with_time_tables
from ubq.quant.layers import QuantLayer
from ubq.quant.phases import set_phase
from ubq.quant.prepare import WEIGHT_LAYERS, prepare_qat, why_float
from ubq.quant.sensitivity import Sensitivity, as_table

UPSTREAM_CLAIM = {
    "claim": "24 of 257 modules = 9.34 % before, 101 of 260 = 38.85 % after, 75 of 75 Conv1d",
    "rule": "modules whose type could be quantised, whether or not anything runs in int8",
}
"""What the upstream fork says of itself; quoted, not confirmed."""
GOALS = {"weight_layers": 1.0, "parameters": 0.999, "macs": 0.99}
"""Shares that must be quantised."""


@dataclass(frozen=True)
class LayerReport:
    """One leaf module.

    Attributes:
        name: path in the generator.
        type: class of the float module, or operator of the exported graph.
        parameters: elements of its weight; for a module without one, of all its tensors.
        macs: multiply-accumulates with its weight.
        weighted: whether it is a weight layer.
        conv1d: whether it is, or was, one of the U-Net's one-dimensional convolutions.
        quantised: whether it runs in int8.
        reason: why not.
    """

    name: str
    type: str
    parameters: int
    macs: int
    weighted: bool
    conv1d: bool
    quantised: bool
    reason: str = ""


@dataclass(frozen=True)
class Share:
    """How many of how many."""

    quantised: int
    total: int

    @property
    def fraction(self) -> float:
        return self.quantised / self.total if self.total else 1.0


@dataclass(frozen=True)
class Coverage:
    """Totals over the layers of one model or file."""

    weight_layers: Share
    parameters: Share
    macs: Share
    leaf_modules: Share
    conv1d: Share
    activation_macs: int
    layers: tuple[LayerReport, ...] = field(repr=False)
    float_constants: tuple[dict[str, Any], ...] = ()

    def totals(self) -> dict[str, dict[str, int]]:
        """The five shares, as JSON has them."""
        return {name: asdict(getattr(self, name)) for name in TOTALS}


TOTALS = ("weight_layers", "parameters", "macs", "leaf_modules", "conv1d")


def tally(
    layers: Mapping[str, LayerReport], activation_macs: int, float_constants: tuple[dict[str, Any], ...] = ()
) -> Coverage:
    """Add up layers."""
    listed = tuple(layers[name] for name in sorted(layers))
    weighted = [x for x in listed if x.weighted]

    def share(chosen: list[LayerReport], amount: str = "") -> Share:
        def total(some: list[LayerReport]) -> int:
            return sum(getattr(x, amount) for x in some) if amount else len(some)

        return Share(total([x for x in chosen if x.quantised]), total(chosen))

    return Coverage(
        weight_layers=share(weighted),
        parameters=share(weighted, "parameters"),
        macs=share(weighted, "macs"),
        leaf_modules=share(list(listed)),
        conv1d=share([x for x in weighted if x.conv1d]),
        activation_macs=activation_macs,
        layers=listed,
        float_constants=float_constants,
    )


def is_conv1d(name: str, weight_dims: int) -> bool:
    """Whether a weight layer is, or was, one of the U-Net's one-dimensional convolutions."""
    return part_of(name) == "diffusion" and weight_dims > 2


class _ActivationProducts(TorchDispatchMode):
    """Adds up the multiply-accumulates of batched matrix products: attention."""

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.bmm.default:
            batch, rows, inner = args[0].shape
            self.macs += batch * rows * inner * args[1].shape[2]
        return func(*args, **(kwargs or {}))


def _without_weights(generator: Generator, quant: QuantConfig) -> Generator:
    """The deployed form of a generator on the meta device: it runs at any size in no time."""
    memo: dict[int, Tensor] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=False) for p in generator.parameters()
    }
    bare = copy.deepcopy(generator, memo)
    if quant.time_tables:
        bare = with_time_tables(bare)
    return bare.to("meta")


@torch.no_grad()
def count_model(generator: Generator, quant: QuantConfig) -> Coverage:
    """Count a generator as it would be deployed; its weights are not looked at.

    Args:
        generator: float or fake-quantised.
        quant: what was asked for; explains the layers that are not quantised.
    """
    generator = _without_weights(generator, quant)
    set_phase(generator, "float")
    layers: dict[str, LayerReport] = {}

    def record(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        weighted = isinstance(module, (*WEIGHT_LAYERS, QuantLayer))
        quantised = isinstance(module, QuantLayer)
        if weighted:
            weight = module.weight
            assert isinstance(weight, Tensor)
            transposed = isinstance(module, nn.ConvTranspose2d)
            counted, channels = (inputs[0], weight.shape[0]) if transposed else (output, weight.shape[0])
            parameters, macs = weight.numel(), counted.numel() // channels * weight.numel()
            reason = "" if quantised else why_float(name, module, quant) or "quant.max_quality_loss"
            conv1d = is_conv1d(name, weight.dim())
        else:
            parameters, macs, conv1d = sum(t.numel() for t in module.state_dict().values()), 0, False
            reason = "no multiply-accumulates with a weight"
        kind = type(module).__name__.removeprefix("Q") if quantised else type(module).__name__
        layers[name] = LayerReport(name, kind, parameters, macs, weighted, conv1d, quantised, reason)

    for name, module in _leaves(generator).items():
        module.register_forward_hook(lambda m, i, o, name=name: record(name, m, i, o))
    latent = torch.empty(1, 1, generator.latent_length, device="meta")
    with _ActivationProducts() as products:
        generator.unet(latent, generator.sampler.times[:1])
        generator.decode_normalised(latent)
    return tally(layers, products.macs)


def _leaves(generator: Generator) -> dict[str, nn.Module]:
    """Modules that compute and hold no module that does; a fake-quantised layer is one, with its observers."""
    modules: dict[str, nn.Module] = {}

    def visit(name: str, module: nn.Module) -> None:
        children = list(module.named_children())
        if isinstance(module, QuantLayer) or not children:
            if not isinstance(module, nn.Identity) and part_of(name):
                modules[name] = module
            return
        for child_name, child in children:
            visit(f"{name}.{child_name}" if name else child_name, child)

    visit("", generator)
    return modules


def differences(model: Coverage, exported: Coverage) -> list[str]:
    """What the exported graph does otherwise than the model says; empty when they agree."""
    problems = []
    ours, theirs = ({x.name: x for x in c.layers} for c in (model, exported))
    for name in sorted(ours.keys() | theirs.keys()):
        a, b = ours.get(name), theirs.get(name)
        if a is None or b is None:
            problems.append(f"{name}: only in the {'exported graph' if a is None else 'model'}")
        elif (a.quantised, a.weighted) != (b.quantised, b.weighted):
            words = {True: "int8", False: "float"}
            problems.append(f"{name}: {words[a.quantised]} in the model, {words[b.quantised]} in the exported graph")
        elif a.weighted and (a.parameters, a.macs) != (b.parameters, b.macs):
            problems.append(f"{name}: {a.parameters}, {a.macs} MACs in the model, {b.parameters}, {b.macs} exported")
    if model.activation_macs != exported.activation_macs:
        problems.append(f"activation MACs: {model.activation_macs} in the model, {exported.activation_macs} exported")
    return problems


def require_equal(model: Coverage, exported: Coverage) -> None:
    """Hold an exported file against the model.

    Raises:
        StageError: the file does not compute what the model's count says.
    """
    problems = differences(model, exported)
    if problems:
        raise StageError(
            _("the exported graph differs from the model in {count} places, first: {first}").format(
                count=len(problems), first=problems[0]
            ),
            _("this is a defect of ubq: please report it with quantization_analysis.json"),
        )


REWRITES = ("fold_batchnorm", "convert_conv1d", "convert_transposed", "ten_bit_io", "time_tables")
"""Rewrites in the order in which the totals are reported; the names of their keys in ``[quant]``."""


def rewrite_totals(recipe: Recipe) -> dict[str, Coverage]:
    """Counts with none of the rewrites, then with each one added in turn, whether the recipe asks for it or not.

    ``quant.keep_float`` is left out of it: rewrites change the names of layers.
    """
    quant = recipe.quant.model_copy(update={**dict.fromkeys(REWRITES, False), "keep_float": ()})
    counts = {"none": _count_recipe(replace(recipe, quant=quant))}
    for name in REWRITES:
        quant = quant.model_copy(update={name: True})
        counts[name] = _count_recipe(replace(recipe, quant=quant))
    return counts


def _count_recipe(recipe: Recipe) -> Coverage:
    with torch.device("meta"):
        model = UBDiff(recipe.sizes)
    generator = deployable(model, recipe, keep_model=False)
    prepare_qat(generator, recipe.quant)
    return count_model(generator, recipe.quant)


def by_upstream_rule(sizes: ModelSizes) -> dict[str, str]:
    """Our count by upstream's rule: leaf modules whose type could be quantised, before and after Conv1d -> Conv2d."""
    with torch.device("meta"):
        model = UBDiff(sizes)
    leaves = [m for n, m in model.named_modules() if not list(m.children()) and not n.startswith("encoder.")]
    could = sum(isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) for m in leaves)
    conv1d = sum(isinstance(m, nn.Conv1d) for m in leaves)

    def show(count: int) -> str:
        return f"{count} of {len(leaves)} = {100 * count / len(leaves):.2f} %"

    return {"before": show(could), "after": show(could + conv1d), "conv1d": str(conv1d)}


def as_json(
    model: Coverage | None,
    exported: Coverage | None,
    recipe: Recipe | None = None,
    sensitivities: Sequence[Sensitivity] = (),
) -> dict[str, Any]:
    """What ``ubq quant analyze --json`` prints and ``quantization_analysis.json`` holds.

    Args:
        model: count of the model, where there is one.
        exported: count of the exported graph, where there is one.
        recipe: adds what each rewrite is worth, and upstream's claim.
        sensitivities: adds what quantising each layer costs, the worst first.
    """
    document: dict[str, Any] = {}
    for key, count in (("model", model), ("exported", exported)):
        document[key] = None if count is None else count.totals()
    best = exported or model
    assert best is not None
    document["activation_macs"] = best.activation_macs
    document["layers"] = [asdict(layer) for layer in (model or best).layers]
    if exported is not None:
        document["float_constants"] = list(exported.float_constants)
    if model is not None and exported is not None:
        document["differences"] = differences(model, exported)
    document["goals"] = {
        name: {"share": getattr(best, name).fraction, "goal": goal, "met": getattr(best, name).fraction >= goal}
        for name, goal in GOALS.items()
    }
    if sensitivities:
        document["worst_layers"] = [s.name for s in sensitivities[:3]]
        document["sensitivity"] = [asdict(s) for s in sensitivities]
    if recipe is not None:
        document["rewrites"] = {
            name: {"asked_for": getattr(recipe.quant, name, True), **count.totals()}
            for name, count in rewrite_totals(recipe).items()
        }
        document["upstream"] = {**UPSTREAM_CLAIM, "our_count_by_that_rule": by_upstream_rule(recipe.sizes)}
    return document


def as_text(document: Mapping[str, Any]) -> str:
    """The same for people: ``quantization_analysis.txt``."""
    lines = [_("Quantisation analysis"), ""]
    header = f"{'':18}" + "".join(f"{name:>32}" for name in TOTALS)
    for key in ("model", "exported"):
        if document.get(key):
            lines += [_("As {where}").format(where=key), *_totals_lines(document[key]), ""]
    lines += [_("Goals")]
    for name, goal in document["goals"].items():
        verdict = _("met") if goal["met"] else _("NOT met")
        lines.append(f"  {name:16} {100 * goal['share']:8.3f} %  (>= {100 * goal['goal']:g} %)  {verdict}")
    lines += ["", _("Products of two activations (attention), not in the counts: {macs} MACs").format(
        macs=f"{document['activation_macs']:,}")]  # fmt: skip
    if document.get("differences"):
        lines += ["", _("The exported graph differs from the model:"), *(f"  {d}" for d in document["differences"])]
    if "rewrites" in document:
        lines += ["", _("Quantised of all, after each rewrite in turn"), header]
        for name, totals in document["rewrites"].items():
            shown = [f"{totals[t]['quantised']:,} / {totals[t]['total']:,}" for t in TOTALS]
            cells = "".join(f"{text:>32}" for text in shown)
            lines.append(f"{name:18}{cells}" + ("" if totals["asked_for"] else "  " + _("(turned off)")))
    if "upstream" in document:
        upstream = document["upstream"]
        ours = upstream["our_count_by_that_rule"]
        lines += [
            "",
            _("The upstream fork claims: {claim}").format(claim=upstream["claim"]),
            _("  by this rule: {rule}").format(rule=upstream["rule"]),
            _("  our count by the same rule: {before} before, {after} after Conv1d -> Conv2d, {conv1d} Conv1d").format(
                **ours
            ),
        ]
    if "sensitivity" in document:
        listed = [Sensitivity(**s) for s in document["sensitivity"]]
        worst = ", ".join(document["worst_layers"])
        lines += ["", _("What quantising each layer costs; the worst: {names}").format(names=worst)]
        lines += as_table(listed).splitlines()
    if document.get("float_constants"):
        lines += ["", _("Float constants above 4 KB in the exported graph")]
        for c in document["float_constants"]:
            lines.append(f"  {c['name']:60} {c['bytes']:>12,} B  {', '.join(c['use'])}")
    lines += ["", f"{_('Layer'):62} {_('type'):20} {_('parameters'):>13} {_('MACs'):>14}  {_('int8, or why not')}"]
    for x in document["layers"]:
        verdict = "int8" if x["quantised"] else x["reason"]
        lines.append(f"{x['name']:62} {x['type']:20} {x['parameters']:>13,} {x['macs']:>14,}  {verdict}")
    return "\n".join(lines) + "\n"


def _totals_lines(totals: Mapping[str, Mapping[str, int]]) -> list[str]:
    lines = []
    for name in TOTALS:
        done, total = totals[name]["quantised"], totals[name]["total"]
        share = 100 * done / total if total else 100.0
        lines.append(f"  {name:16} {done:>16,} / {total:>16,}  {share:7.3f} %")
    return lines


def write_analysis(folder: Path, document: Mapping[str, Any]) -> tuple[Path, Path]:
    """Write ``quantization_analysis.txt`` and ``.json`` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    text, data = folder / "quantization_analysis.txt", folder / "quantization_analysis.json"
    text.write_text(as_text(document), encoding="utf-8")
    data.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return text, data
