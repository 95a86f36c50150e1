"""Networks by name and by hand: where they come from, and what is said of a wrong one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from capcheck import CheckResult, InputError, Outcome, check
from capcheck.core.budget import Budget
from capcheck.fitting import build
from capcheck.fitting.named import make, placed, require_named
from capcheck.fitting.network_check import check_network
from capcheck.laws import Categorical, MixtureOfGaussians
from capcheck.networks.kinds import FittedNetwork
from capcheck.procedures.procedure import Procedure
from capcheck.procedures.registry import build_probe
from capcheck.targets import ProductMixture, from_spec
from capcheck.targets.target import Target

CONTINUOUS = from_spec("modes:tokens=4,modes=2,gap=3")
CATEGORICAL = from_spec("copy:tokens=4,symbols=3")
HOW: dict[str, Any] = {"samples": 200, "lengths": [3], "steps": [2]}

FACTORIES = """
import torch
from torch import nn
from capcheck.fitting import build

calls = []

def wide(signature, spec):
    calls.append((type(signature).__name__, spec.tokens))
    return build(signature, spec, "mlp:width=16,depth=1")

def trained(signature, spec):
    torch.manual_seed(5)
    module = build(signature, spec, "mlp:width=16,depth=1")
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return module

def crooked(signature, spec):
    return nn.Linear(7, 7)

def raises(signature, spec):
    raise RuntimeError("no weights here")

def leaves(signature, spec):
    raise SystemExit(0)

def none(signature, spec):
    return None

def scaled(signature, spec):
    return Scaled(trained(signature, spec))

class Scaled(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner, self.scale = inner, 1.0

    def forward(self, *shown):
        return self.inner(*shown) * self.scale

def drawn(signature, spec):
    return Drawn(spec)

class Drawn(nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.mean = nn.Parameter(torch.randn(spec.tokens, spec.dim))

    def forward(self, x_t, t):
        return self.mean.expand(x_t.shape)

def function(signature, spec):
    return lambda x_t, t: torch.zeros_like(x_t)

class Deep:
    @staticmethod
    def factory(signature, spec):
        return wide(signature, spec)

number = 3
"""


@pytest.fixture(autouse=True)
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "my_networks.py").write_text(FACTORIES)
    (tmp_path / "broken_networks.py").write_text("import a_package_that_nobody_has")
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    yield
    sys.path[:] = path
    for name in ("my_networks", "broken_networks"):
        sys.modules.pop(name, None)


def test_names_have_one_spelling() -> None:
    assert require_named("mlp:width=8") == "mlp:width=8,depth=3"
    assert require_named("transformer") == "transformer:width=128,depth=3"
    assert require_named("my_networks:wide") == "my_networks:wide"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mpl:width=8", "did you mean 'mlp'"),
        ("mlp:widht=8", "did you mean 'width'"),
        ("mlp:width=0", "network width"),
        ("mlp:width=100000", "at most 4096"),
        ("mlp:width=-1", "whole number"),
        ("mlp:wide", "sizes that it has"),
        ("mlp:depth=1,depth=2", "depth must be given once"),
        ("", "known architecture"),
        ("../weights.pt", "known architecture"),
        ("my_networks:wide()", "known architecture"),
        (3, "must be callable, or the name"),
    ],
)
def test_names_that_name_nothing_are_refused(name: Any, words: str) -> None:
    with pytest.raises(InputError, match="network") as caught:
        check("gpt", CONTINUOUS, network=name)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere.at_all:f", "names a module that cannot be imported (ModuleNotFoundError"),
        ("broken_networks:f", "a_package_that_nobody_has"),
        ("my_networks:wyde", "my_networks has no 'wyde'"),
        ("my_networks:number", "must name a function, got int"),
        ("my_networks:raises", "and raised RuntimeError: no weights here"),
        ("my_networks:leaves", "and raised SystemExit: 0"),
        ("my_networks:none", "must return a module, got NoneType"),
        ("my_networks:function", "must be an nn.Module to be fitted, got function"),
        (
            "my_networks:crooked",
            "must be a Denoiser, (x_t, t) -> E[x_0 | what token i sees of x_t] on a stated noise "
            "path, called with (3, 4, 1) float32, (3, 4) float32, and raised TypeError",
        ),
    ],
)
def test_factories_that_cannot_be_used_are_refused_in_one_sentence(name: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        check("diffusion", CONTINUOUS, network=name, fit_steps=60, **HOW)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_factory_is_told_signature_and_spec_and_its_module_is_fitted() -> None:
    found = check("gpt", CONTINUOUS, network="my_networks:Deep.factory", fit_steps=60, **HOW)
    assert sys.modules["my_networks"].calls == [("TokenPredictorSignature", 4)]
    assert found.found.network == "my_networks:Deep.factory"
    kind = found.found.plan.network
    assert isinstance(kind, FittedNetwork)
    assert kind.objective == "oracle"
    assert found.found.facts is not None
    assert found.found.facts.fit is not None
    assert found.found.facts.fit.validation < found.found.facts.fit.start


def test_a_trained_checkpoint_is_measured_as_it_is(tmp_path: Path) -> None:
    procedure = Procedure.of(build_probe("gpt"), CONTINUOUS)
    by_name = check(
        "gpt", CONTINUOUS, network="my_networks:trained", objective="none", out=tmp_path / "run",
        **HOW,
    )  # fmt: skip
    assert by_name.found.facts is not None
    assert by_name.found.facts.fit is None
    assert by_name.found.facts.parameters is not None
    module = make("my_networks:trained", procedure, seed=0)
    by_hand = check("gpt", CONTINUOUS, network=module, **HOW)
    assert by_hand.found.facts == by_name.found.facts
    assert by_hand.cells == by_name.cells
    assert by_hand.outcome is Outcome.NOT_REPRESENTABLE
    again = check("gpt", CONTINUOUS, network=module, objective="oracle", fit_steps=60, **HOW)
    assert again.found.facts is not None
    assert again.found.facts.fit is not None  # an object is fitted where that is asked for
    assert again.found.facts.weights != by_hand.found.facts.weights


def test_other_weights_are_other_cells(tmp_path: Path) -> None:
    how: dict[str, Any] = {"network": "my_networks:trained", "objective": "none", **HOW}
    first = check("gpt", CONTINUOUS, out=tmp_path / "run", **how)
    text = (tmp_path / "my_networks.py").read_text()
    (tmp_path / "my_networks.py").write_text(text.replace("0.1 *", "0.2 * 1.0 *"))
    del sys.modules["my_networks"]
    second = check("gpt", CONTINUOUS, out=tmp_path / "run", **how)
    assert first.cells != second.cells


def test_an_attribute_that_is_no_weight_makes_other_cells_and_another_fit(tmp_path: Path) -> None:
    def measured(**how: Any) -> CheckResult:
        return check(
            "diffusion", CONTINUOUS, network="my_networks:scaled",
            out=tmp_path / how.get("objective", "fitted"), divergences=["mmd"], **HOW, **how,
        )  # fmt: skip

    first, fitted = measured(objective="none"), measured(fit_steps=20)
    text = (tmp_path / "my_networks.py").read_text()
    (tmp_path / "my_networks.py").write_text(text.replace("inner, 1.0", "inner, 0.5 + 0.0"))
    del sys.modules["my_networks"]
    second, again = measured(objective="none"), measured(fit_steps=20)
    assert first.cells != second.cells
    assert fitted.found.facts != again.found.facts


def test_a_factory_is_seeded_and_the_caller_has_his_own_seed_back() -> None:
    how: dict[str, Any] = {"network": "my_networks:drawn", "objective": "none", **HOW}
    torch.manual_seed(1)
    first = check("diffusion", CONTINUOUS, **how)
    assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.manual_seed(1)))
    second = check("diffusion", CONTINUOUS, **how)
    assert first.cells == second.cells
    assert str(Path.cwd()) not in sys.path


def peeking(tokens: Tensor, known: Tensor) -> MixtureOfGaussians:
    """A law around the true value of the token that is to be predicted."""
    zeros = torch.zeros(*tokens.shape[:2], 1).double()
    return MixtureOfGaussians(zeros, tokens[..., None, :], 0.1 + 0 * tokens[..., None, :])


@pytest.mark.parametrize("family", ["gpt", "maskgit", "pixelcnn"])
def test_a_network_cannot_read_what_it_is_to_predict(family: str) -> None:
    found = check(family, CONTINUOUS, network=peeking, **HOW | {"lengths": [4]})
    assert found.outcome is Outcome.NOT_REPRESENTABLE
    kl = found.cells[0].estimates["kl"]
    assert kl.value is None or kl.value > 0.5  # with the values in view it is far below 0


def test_a_network_that_is_fitted_cannot_learn_to_peek() -> None:
    class Peeking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.log_deviation = nn.Parameter(torch.zeros(()))

        def forward(self, tokens: Tensor, known: Tensor) -> MixtureOfGaussians:
            variance = (2 * self.log_deviation).exp().expand(tokens.shape)[..., None, :]
            zeros = torch.zeros(*tokens.shape[:2], 1).to(tokens)
            return MixtureOfGaussians(zeros, tokens[..., None, :], variance)

    found = check(
        "gpt", CONTINUOUS, network=Peeking(), objective="oracle", fit_steps=200,
        **HOW | {"lengths": [4]},
    )  # fmt: skip
    assert found.found.facts is not None
    assert found.found.facts.fit is not None
    assert found.found.facts.fit.validation > 0.1  # the floor cannot be undercut
    assert found.outcome is Outcome.NOT_REPRESENTABLE


def test_densities_that_do_not_sum_to_one_are_no_evidence() -> None:
    class Boastful(nn.Module):
        """A bijection that claims ten nats more than it has, and has no gradient to tell it by."""

        def forward(self, z: Tensor) -> Tensor:
            return z.detach()

        def log_prob(self, x: Tensor) -> Tensor:
            return 10 - 0.5 * x.square().flatten(1).sum(1)

    found = check("flow", CONTINUOUS, network=Boastful(), samples=400, steps=[1], lengths=[4])
    kl = found.cells[0].estimates["kl"]
    assert kl.kind == "lower bound"
    assert "below 0" in kl.method
    assert found.outcome is not Outcome.REPRESENTABLE


def test_broken_numbers_are_told_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must answer in numbers, got NaN"):
        check("diffusion", CONTINUOUS, network=lambda x, t: x * torch.nan, **HOW)
    with pytest.raises(InputError, match="has no 'wyde'"):
        check("diffusion", CONTINUOUS, network="my_networks:wyde", out=tmp_path / "run", **HOW)
    assert not (tmp_path / "run").exists()


def test_modules_that_cannot_be_copied_or_trained_are_told() -> None:
    class Fixed(Wrong):
        def __deepcopy__(self, memo: Any) -> Any:
            raise RuntimeError("a handle")

    class NeverTrained(Wrong):
        def __init__(self, answer: Any) -> None:
            super().__init__(answer)
            self.weight = nn.Parameter(torch.zeros(()))

        def train(self, mode: bool = True) -> Any:
            if mode:
                raise RuntimeError("frozen")
            return super().train(mode)

    with pytest.raises(InputError, match="can be copied, and raised RuntimeError: a handle"):
        check("diffusion", CONTINUOUS, network=Fixed(lambda x, t: x), **HOW)
    with pytest.raises(InputError, match="could not be fitted, and raised RuntimeError: frozen"):
        check(
            "diffusion", CONTINUOUS, network=NeverTrained(lambda x, t: x), objective="oracle",
            fit_steps=20, **HOW,
        )  # fmt: skip


class Wrong(nn.Module):
    """Answers in a shape of its own."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, *shown: Tensor) -> Any:
        """The same every time."""
        return self.answer(*shown)


@pytest.mark.parametrize(
    ("family", "target", "answer", "words"),
    [
        ("diffusion", CONTINUOUS, lambda x, t: x[:, :2], "shape (3, 4, 1)"),
        ("flow_map", CONTINUOUS, lambda x, t: x, "(3, 4, 1) float64, (3, 4) float64, (3, 4)"),
        ("consistency", CONTINUOUS, lambda x, t: x[..., 0], "got (3, 4)"),
        ("gpt", CONTINUOUS, lambda x, k: x, "TokenLaw"),
        (
            "maskgit",
            CATEGORICAL,
            lambda x, k: Categorical(torch.zeros(3, 4, 2).double()),
            "means of shape (3, 4, 3), got (3, 4, 2)",
        ),
        ("ebm", CONTINUOUS, lambda x: x.flatten(1), "energ"),
        ("ebm", CONTINUOUS, lambda x: x.detach().flatten(1).sum(1), "must have a gradient"),
        ("gan", CONTINUOUS, lambda z: z[:, :1], "(3, 4, 1)"),
        ("flow", CONTINUOUS, lambda z: z[..., :0], "got (3, 4, 0)"),
        ("vae", CONTINUOUS, lambda z: z, "TokenLaw"),
    ],
)
def test_wrong_signatures_are_told_shape_by_shape(
    family: str, target: Target, answer: Any, words: str
) -> None:
    with pytest.raises(InputError) as caught:
        check(family, target, network=Wrong(answer), samples=200, steps=[2])
    sentence = str(caught.value)
    assert sentence.startswith(("network Wrong must be a ", "network Wrong must be an "))
    assert "called with (3, 4" in sentence or family == "vae"
    assert words in sentence


@pytest.mark.parametrize(
    "family",
    ["diffusion", "flow_map", "consistency", "gpt", "maskgit", "ebm", "gan", "flow", "vae",
     "ar_smoothing", "diffusion_forcing", "mar", "var", "pixelcnn", "parallel_solve"],
)  # fmt: skip
def test_default_modules_have_the_signature_that_is_asked_for(family: str) -> None:
    procedure = Procedure.of(build_probe(family), CONTINUOUS)
    module = build(procedure.probe.signature, procedure.spec, "mlp:width=8,depth=1")
    network = placed(module, procedure.spec, name="mlp")
    budgets = [Budget(length=0, steps=1), Budget(length=4, steps=2)]
    assert check_network(network, procedure, budgets, name="mlp")


def test_one_object_at_a_time_and_none_with_a_folder(three: ProductMixture, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="network may hold one object, got 2"):
        check("gpt", three, network=[lambda *x: x, lambda *x: x])
    with pytest.raises(InputError, match="out cannot resume a network given as an object"):
        check("gpt", three, network=lambda *x: x, out=tmp_path)
    with pytest.raises(InputError, match="objective 'orakel' is unknown; did you mean 'oracle'"):
        check("gpt", three, network="mlp", objective="orakel")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="fit_seconds must be above 0"):
        check("gpt", three, network="mlp", fit_seconds=0)
    with pytest.raises(InputError, match="need a network to fit, got none"):
        check("gpt", three, fit_seconds=3)
    with pytest.raises(InputError, match="mlp:width=128,depth=3 has none yet"):
        check("gpt", three, network="mlp", objective="none")
    with pytest.raises(InputError, match="exclude each other"):
        check("gpt", three, network="mlp", fit_seconds=3, fit_steps=3)
