"""Findings besides a mechanism, and mechanisms without frequencies, as reports show them."""

import re

from apps.console import headline
from apps.figures import Bar, bar_panel
from apps.report import render_report
from tests.app.test_report import a_document, a_finding

VARIABLES = [
    {"variable": "a_0", "heads": ["a0.h0", "a0.h1"], "naming": 0.995, "tested": 0.9875}
    | {"other heads": 0.0125},
    {"variable": "carry_1", "heads": ["a0.h3"], "naming": 1.0, "tested": 0.975, "other heads": 0.0},
]


def test_findings_besides_the_mechanism_have_a_section_of_their_own() -> None:
    found = [a_finding("sufficiency"), a_finding("circuit_eap"), a_finding("patch_head", value=4.5)]
    html = render_report(a_document(findings=found), {}, [])
    tested, besides = html.split("What patching and circuits found")
    assert "What was claimed" in tested and "claim of sufficiency" in tested
    assert "claim of circuit_eap" not in tested and "claim of patch_head" not in tested
    assert "claim of circuit_eap" in besides and "claim of patch_head" in besides
    alone = render_report(a_document(findings=found[1:]), {}, [])
    assert "What patching and circuits found" in alone and "What was claimed" not in alone
    assert "What patching" not in render_report(a_document(findings=found[:1]), {}, [])


def test_effects_of_patching_have_an_axis_in_their_unit() -> None:
    html = render_report(a_document(findings=[a_finding("patch_head", value=4.5)]), {}, [])
    (panel,) = re.findall(r"<svg.*?</svg>", html[html.index("Beside the controls") :], re.S)[:1]
    ticks = re.findall(r">([\d.]+)</text>", panel)
    assert {"0", "2.25", "4.5"} <= set(ticks)


def test_bars_are_as_long_as_their_share_of_the_axis() -> None:
    svg = bar_panel([Bar("this", 3.0, (2.0, 4.0), "finding", "3")], label="x", top=4.0)
    axis = 560 - 186 - 86
    assert f'width="{3 * axis // 4}"' in svg and 'path class="finding"' not in svg
    assert f"M{186 + axis // 2} 15H{186 + axis}" in svg


def test_long_names_beside_bars_are_whole() -> None:
    name = "random circuits without dead ends"
    assert f">{name}</text>" in bar_panel([Bar(name, 0.5, None, "control", "0.5")], label="x")


def test_a_mechanism_without_frequencies_is_told_by_its_variables() -> None:
    document = a_document(
        mechanism="column_addition", key_frequencies=[], parts={"variables": VARIABLES}
    )
    html = render_report(document, {}, [])
    assert "key frequenc" not in html.split("The findings as JSON")[0]
    assert "carry_1" in html and "a0.h0 and a0.h1" in html and "0.9875" in html
    assert "Other heads" in html
    assert "frequenc" not in headline(document)
    assert "no key frequency was found" in render_report(a_document(key_frequencies=[]), {}, [])
    assert "key frequencies: 2, 3" in headline(a_document())
