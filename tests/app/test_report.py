"""The report: one inert file that shows every number, whatever the data says."""

import json
import math
import re
from html.parser import HTMLParser
from typing import Any

import pytest
import torch
from torch import Tensor

from apps.figures import finite_limit, heat_map
from apps.report import render_report

VOID = {"meta", "link", "img", "source", "br"}
HOSTILE = """<script>alert(1)</script>" onload='x' & </style></td>--> \u202egpj\ud800"""


class Page(HTMLParser):
    """What a page consists of; fails on tags that are not balanced."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def a_finding(id: str, **changes: Any) -> dict[str, Any]:
    return {
        **{"id": id, "claim": f"claim of {id}", "measure": f"measure of {id}", "value": 0.9321},
        **{"n": 3481, "interval": None, "held_out": 0.9102, "verdict": "supported"},
        **{"rule": f"rule of {id}", "details": {"restricted_loss": 0.125, "shifts": 58.0}},
        "controls": [
            {"name": f"{id} draws", "value": 0.0171, "n": 23, "interval": [0.0156, 0.0187]}
            | {"unit": "draws"},
            {"name": f"{id} network", "value": -3.25, "n": 1044, "interval": None}
            | {"unit": "inputs"},
        ],
        **changes,
    }


def a_document(**changes: Any) -> dict[str, Any]:
    return {
        **{"workbench": "0.1.0", "task": {"name": "modular_addition", "p": 7}},
        **{"run": "runs/modular_addition-p7-seed0", "weights_sha256": "ab" * 32},
        **{"n_inputs": 49, "exhaustive": True, "accuracy": 48 / 49, "accuracy_interval": None},
        **{"held_out_accuracy": 0.96, "min_margin": -0.5, "mechanism": "fourier"},
        **{"verdict": "partial", "reason": "1 of 2 findings is supported"},
        **{"key_frequencies": [2, 3], "findings": [a_finding("sufficiency"), a_finding("formula")]},
        "parts": {
            "embedding_frequencies": [2, 3],
            "embedding_complete": True,
            "planes": [
                {"frequency": k, "alpha": alpha, "logit_share": 0.4, "embedding_share": 0.3}
                | {"neurons": 5}
                for k, alpha in ((2, 4.0), (3, -1.5))
            ],
            "heads": [
                {"name": "a0.h0", "accuracy_without": 0.25, "frequency_shares": {"2": 0.75}},
            ],
        },
        **{"seconds": {"train": 8.1, "explain": 6.0}, "model": {"n_layers": 1, "d_mlp": 16}},
        **{"source": None, "seed": 0, "step": 240, "grokking_step": 100},
        **changes,
    }


def some_figures(n: int = 7, logs: Tensor | None = None) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    correct = torch.ones(n, n, dtype=torch.bool)
    correct[2, 5] = False
    return {
        "correct": correct,
        "margin": torch.where(correct, 4.0, -0.5),
        "logit_spectrum": torch.tensor([0.01, 0.6, 0.3], dtype=torch.float64),
        "embedding_spectrum": torch.tensor([0.1, 0.5, 0.4], dtype=torch.float64),
        "gallery": torch.rand(2, n, n, generator=generator),
        "gallery_neurons": torch.tensor([3, 17]),
        "gallery_frequencies": torch.tensor([2, 3]),
        "logs": torch.arange(n) if logs is None else logs,
    }


def some_metrics(**changes: Any) -> list[dict[str, Any]]:
    return [
        {"step": step, "train_loss": 2.0 / (step + 1), "train_accuracy": step / 240}
        | {"held_out_loss": 3.0 / (step + 1), "held_out_accuracy": step / 250, "seconds": 1.0}
        | changes
        for step in range(0, 250, 10)
    ]


def full_page(**changes: Any) -> str:
    return render_report(a_document(**changes), some_figures(), some_metrics())


def svgs(html: str) -> str:
    return " ".join(re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL))


# ---------------------------------------------------------------------- one inert file


def test_page_is_one_file_that_asks_for_nothing() -> None:
    html = full_page()
    page = Page(html)
    assert html.startswith("<!DOCTYPE html>")
    assert "http://" not in html and "https://" not in html
    policies = [m["content"] for m in page.named("meta") if "http-equiv" in m]
    assert policies == [
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    ]
    forbidden = {"script", "iframe", "object", "embed", "form", "a", "base", "audio", "video"}
    assert forbidden.isdisjoint({tag for tag, _ in page.tags})
    for _tag, attrs in page.tags:
        assert not any(name.startswith("on") for name in attrs)
        for name in ("src", "srcset", "href"):
            assert (attrs.get(name) or "data:").startswith("data:")
    assert "@import" not in html and "url(" not in html


def test_page_reads_without_colour_sight_or_light() -> None:
    page = Page(full_page())
    assert all(image["alt"] for image in page.named("img"))
    assert all(svg["aria-label"] and svg["role"] == "img" for svg in page.named("svg"))
    tags = [tag for tag, _ in page.tags]
    assert tags.count("figure") == tags.count("figcaption") >= 9
    assert len(page.named("details")) >= 6
    assert "prefers-color-scheme: dark" in full_page() and "@media print" in full_page()


@pytest.mark.parametrize("verdict", ["identified", "partial", "not identified"])
def test_first_sentence_says_verdict_reason_frequencies_and_accuracies(verdict: str) -> None:
    html = full_page(verdict=verdict, reason="because of `x`")
    header = Page(re.search(r"<header>.*?</header>", html, flags=re.DOTALL)[0]).text  # type: ignore[index]
    assert "Modular addition, p = 7" in header and verdict in header
    assert "key frequencies 2 and 3; right on 48 of all 49 inputs" in header
    assert "accuracy 0.9600 on the inputs held out from training" in header
    assert "<code>x</code>" in html


def test_unknown_training_is_said_so() -> None:
    html = full_page(held_out_accuracy=None, seed=None, source={"paper": "x"})
    page = Page(html)
    assert "it is not known what this network was trained on" in page.text
    assert "were not used to name the parts" in page.text
    assert "was imported" in Page(render_report(a_document(source={"a": 1}), {}, [])).text


# ---------------------------------------------------------------------- hostile data


def replaced(value: Any, keep: frozenset[str] = frozenset()) -> Any:
    """Every text inside JSON data made hostile, but the values of some keys kept."""
    if isinstance(value, str):
        return HOSTILE
    if isinstance(value, list):
        return [replaced(item, keep) for item in value]
    if isinstance(value, dict):
        return {k: v if k in keep else replaced(v, keep) for k, v in value.items()}
    return value


@pytest.mark.parametrize("keep", [frozenset[str](), frozenset({"id", "name"})])
def test_hostile_text_in_every_field_stays_text(keep: frozenset[str]) -> None:
    document = replaced(a_document(source={"paper": "x"}, versions={"torch": "2"}), keep)
    document["parts"]["heads"][0]["frequency_shares"] = {HOSTILE: 0.5}
    document["source"][HOSTILE] = HOSTILE
    document["findings"][0]["details"][HOSTILE] = 1.0
    html = render_report(document, some_figures(), some_metrics())
    page = Page(html)
    assert "script" not in {tag for tag, _ in page.tags}
    assert not any("onload" in attrs for _, attrs in page.tags)
    assert html.count("</style>") == 1 and html.count("-->") == 0
    assert "\u202e" not in html and "\\u{202e}" in html
    html.encode("utf-8")
    assert page.text.count("<script>alert(1)</script>") > 20


def test_command_of_a_strange_run_is_quoted_for_the_shell() -> None:
    page = Page(full_page(run="runs/a b; rm -rf ~"))
    assert "workbench explain 'runs/a b; rm -rf ~'" in page.text
    assert "--step" not in page.text
    assert "runs/x --step 100" in Page(full_page(run="runs/x", step=100)).text


# ---------------------------------------------------------------------- every number


def test_every_finding_and_control_is_on_the_page_with_its_n() -> None:
    document = a_document()
    page = Page(full_page())
    cells = " ".join(" ".join(page.texts).split())
    for finding in document["findings"]:
        for text in (finding["id"], finding["claim"], finding["measure"], finding["rule"]):
            assert text in cells
        assert f"{finding['id']} draws 0.0171 [0.0156, 0.0187] 23 draws" in cells
        assert f"{finding['id']} network −3.2500 — 1,044 inputs" in cells
    assert cells.count("0.9321 — 3,481 0.9102") == 2
    assert "restricted loss 0.1250; shifts 58." in cells
    assert "a0.h0 0.2500 0.7500" in cells and "2 yes 4.000 0.4000 0.3000 5" in cells
    assert "m0 neuron 3" in cells and "m1 neuron 1" in cells
    assert "At step 240: training 0.0083, held out 0.0124." in cells
    assert document["weights_sha256"] in cells and "a = 2, b = 5 −0.500" in cells


def test_page_carries_its_document() -> None:
    page = Page(full_page())
    start = page.text.index('{\n "workbench"')
    assert json.JSONDecoder().raw_decode(page.text[start:])[0] == json.loads(
        json.dumps(a_document())
    )


def test_formula_is_written_out_with_its_amplitudes() -> None:
    text = " ".join(Page(full_page()).text.split())
    assert "4.000 cos(2π · 2 d / 7) − 1.500 cos(2π · 3 d / 7)" in text
    assert "d = a + b − c mod 7" in text
    at_zero = 4.0 - 1.5
    elsewhere = max(
        4 * math.cos(4 * math.pi * d / 7) - 1.5 * math.cos(6 * math.pi * d / 7) for d in (1, 2, 3)
    )
    assert f"it is {at_zero:.2f}; the largest elsewhere is {elsewhere:.2f}, at d = ±3" in text
    assert "says little" not in text  # one amplitude is negative


def test_division_is_written_with_logarithms_and_its_gallery_in_their_order() -> None:
    logs = torch.tensor([0, 2, 1, 4, 5, 3])  # of 1 ... 6 modulo 7, to base 3
    figures = some_figures(6, logs)
    order = torch.tensor([0, 2, 1, 5, 3, 4])  # elements 1, 3, 2, 6, 4, 5 by ascending logarithm
    document = a_document(task={"name": "modular_division", "p": 7}, n_inputs=36)
    html = render_report(document, figures, [])
    text = " ".join(Page(html).text.split())
    assert "d = log a − log b − log c mod 6, log the discrete logarithm to base 3 modulo 7" in text
    assert "log a downwards and log b to the right" in text
    assert "a = 3, b = 6" in text  # the wrong input: elements start at 1
    tile = figures["gallery"][0][order][:, order].double()
    picture = heat_map(tile, alt="", limit=finite_limit(tile), signed=False)
    assert picture.split('"')[1] in html


def test_subtraction_has_a_minus() -> None:
    document = a_document(task={"name": "modular_subtraction", "p": 7})
    text = " ".join(Page(render_report(document, some_figures(), [])).text.split())
    assert "d = a − b − c mod 7" in text


# ---------------------------------------------------------------------- what may be missing


def test_page_without_figures_findings_or_metrics() -> None:
    document = a_document(
        task={"name": "digit_addition", "n_digits": 5},
        exhaustive=False,
        accuracy=0.9985,
        accuracy_interval=(0.998, 0.999),
        held_out_accuracy=None,
        min_margin=None,
        mechanism=None,
        verdict="not identified",
        key_frequencies=[],
        findings=[],
        parts={},
        grokking_step=None,
    )
    page = Page(render_report(document, {}, []))
    assert "No claim was tested" in page.text and "No curves" in page.text
    assert "accuracy 0.9985 over a sample of 49 inputs, 95 % interval [0.9980, 0.9990]" in page.text
    assert page.named("svg") == [] and page.named("img") == []


def test_page_of_a_bare_document() -> None:
    assert "Unknown task" in Page(render_report({}, {}, [])).text


def test_no_key_frequency_means_no_formula() -> None:
    page = Page(full_page(key_frequencies=[]))
    assert "there is no formula to write out" in page.text


@pytest.mark.parametrize("bad", [None, math.nan, math.inf, -math.inf, 0.0])
def test_svg_numbers_are_finite_for_metrics_that_are_not(bad: float | None) -> None:
    rows = some_metrics(held_out_loss=bad, held_out_accuracy=bad)
    rows[3] = dict.fromkeys(rows[3], bad) | {"step": 30}
    html = render_report(a_document(), some_figures(), rows)
    Page(html)
    assert not re.search(r"\b(nan|inf)\b", svgs(html), flags=re.IGNORECASE)


@pytest.mark.parametrize("value", [math.nan, -4.0, 7.5, 1e-9, 0.0])
def test_svg_numbers_are_finite_for_any_finding(value: float) -> None:
    finding = a_finding("edit", value=value, held_out=value)
    finding["controls"][0] |= {"value": value, "interval": [value, math.nan]}
    html = full_page(findings=[finding])
    Page(html)
    assert not re.search(r"\b(nan|inf)\b", svgs(html), flags=re.IGNORECASE)


def test_networks_that_are_always_wrong_or_not_finite_are_drawn() -> None:
    figures = some_figures()
    figures["correct"] = torch.zeros(7, 7, dtype=torch.bool)
    figures["margin"] = torch.full((7, 7), torch.nan)
    figures["margin"][0, 0] = -2.0
    figures["logit_spectrum"] = torch.full((3,), torch.nan, dtype=torch.float64)
    figures["gallery"] = torch.zeros(2, 7, 7)
    html = render_report(a_document(accuracy=0.0, min_margin=math.nan), figures, some_metrics())
    text = Page(html).text
    assert "0 of 49 inputs right, 49 wrong" in text and "48 are not finite (grey)" in text
    assert "right on 0 of all 49 inputs" in text
    assert not re.search(r"\b(nan|inf)\b", svgs(html), flags=re.IGNORECASE)


def test_signed_margin_is_drawn_on_a_symmetric_scale() -> None:
    text = Page(full_page()).text
    assert "−4.0" in text and "+4.0" in text
