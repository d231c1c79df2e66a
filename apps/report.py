"""The report of an explanation: one page that shows every number beside its control.

`render_report` is pure: it takes the JSON object that `workbench explain --json` prints (with
`parts`), the mechanism's arrays and the training metrics, and returns the page. A number that is
missing is shown as a dash; a section without data says why it is empty.
"""

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from apps.figures import Mark, Series, line_chart
from apps.page import (
    DASH,
    as_float,
    badge,
    count,
    details,
    escaped,
    facts,
    figure,
    interval,
    listed,
    number,
    page,
    pairs,
    prose,
    seconds,
    section,
    table,
    words,
)
from apps.report_findings import bars_section, findings_section
from apps.report_pictures import formula_section, gallery_section, maps_section, spectra_section

Document = Mapping[str, Any]
Row = Mapping[str, Any]

DRAWN_ROWS = 1500
"""A training curve is drawn through at most about this many evaluations."""
LISTED_ROWS = 40
"""The table beside it lists at most about this many."""


def render_report(
    document: dict[str, Any], figures: dict[str, Tensor], metrics: list[dict[str, Any]]
) -> str:
    """The page as one string of HTML.

    Args:
        document: what `workbench explain --json` prints, with `parts`.
        figures: the explanation's arrays; may be empty.
        metrics: rows of metrics.jsonl; empty for a network whose training is unknown.
    """
    return page(
        f"{task_title(document)}: {document.get('verdict')}",
        (
            _header(document),
            findings_section(document),
            bars_section(document),
            maps_section(document, figures),
            spectra_section(document, figures),
            formula_section(document, figures),
            parts_section(document),
            gallery_section(document, figures),
            training_section(document, metrics),
            _check(document, metrics),
        ),
    )


# ---------------------------------------------------------------------- verdict


def _header(document: Document) -> str:
    spent, source = document.get("seconds") or {}, document.get("source")
    told = {
        "Task": pairs(document.get("task") or {}),
        "Run": f"<code>{escaped(document.get('run'))}</code>",
        "Network": pairs(document.get("model") or {}),
        "Mechanism tested": escaped(document.get("mechanism") or "none"),
        "Smallest margin": _smallest_margin(document),
        "Time": f"training {seconds(spent.get('train'))}, "
        f"explaining {seconds(spent.get('explain'))}",
    }
    if source:
        told["Source, as its publisher has it"] = pairs(source)
    if document.get("session"):
        told["Opened from session"] = (
            f"<code>{escaped(document['session'][:12])}</code>: what was not asked again here is "
            "its author's word; replay the file"
        )
    return (
        f'<header>\n<p class="kicker">Workbench report</p>\n'
        f"<h1>{escaped(task_title(document))}</h1>\n"
        f'<p class="verdict">{badge(document.get("verdict"))} {verdict_sentence(document)}</p>\n'
        f"{facts(told)}\n</header>"
    )


def _smallest_margin(document: Document) -> str:
    margin = document.get("min_margin")
    if margin is None:
        return DASH
    meaning = "logit of the right answer minus the largest other"
    return f"{number(margin, 3)} nats ({meaning}, over {_inputs(document)})"


def task_title(document: Document) -> str:
    task = document.get("task") or {}
    name = str(task.get("name", "unknown task")).replace("_", " ")
    return name[:1].upper() + name[1:] + (f", p = {task['p']}" if "p" in task else "")


def verdict_sentence(document: Document) -> str:
    """Why, the key frequencies, accuracy over all inputs, accuracy on held-out pairs."""
    accuracy, keys = as_float(document.get("accuracy")), document.get("key_frequencies") or ()
    clauses = [prose(document.get("reason") or "no reason was recorded")]
    if keys:
        clauses.append(f"key frequencies {listed(keys)}")
    elif "embedding_frequencies" in (document.get("parts") or {}):
        clauses.append("no key frequency was found")
    if document.get("exhaustive") and math.isfinite(accuracy):
        n = int(document["n_inputs"])
        clauses.append(f"right on {round(accuracy * n):,} of all {n:,} inputs")
    else:
        ends = interval(document.get("accuracy_interval"))
        clauses.append(
            f"accuracy {number(accuracy)} over {_inputs(document)}, 95 % interval {ends}"
        )
    clauses.append(_held_out(document))
    text = "; ".join(clauses)
    return f"{text[:1].upper()}{text[1:]}."


def _held_out(document: Document) -> str:
    accuracy = document.get("held_out_accuracy")
    if accuracy is not None:
        return f"accuracy {number(accuracy)} on the inputs held out from training"
    if document.get("seed") is not None:
        return "held-out accuracy not measured"
    return "held-out accuracy unknown, as it is not known what this network was trained on"


def _inputs(document: Document) -> str:
    which = "all" if document.get("exhaustive") else "a sample of"
    return f"{which} {count(document.get('n_inputs'))} inputs"


# ---------------------------------------------------------------------- parts


def parts_section(document: Document) -> str:
    parts = document.get("parts") or {}
    planes, heads = parts.get("planes") or (), parts.get("heads") or ()
    variables = parts.get("variables") or ()
    if variables:
        return section("Parts", _variables(variables))
    if not planes and not heads:
        return ""
    known = document.get("held_out_accuracy") is not None
    on = "the training pairs" if known else "part of the pairs"
    content = [f"<p>Named on {on}, then frozen for every test above.</p>"]
    if planes:
        content += ["<h3>Planes, by frequency</h3>", _planes(planes, document)]
    if parts.get("embedding_complete") is False:
        content.append(
            '<p class="note">The named planes of the embeddings do not suffice on the pairs they '
            "were named on.</p>"
        )
    if heads:
        content += ["<h3>Heads</h3>", _heads(heads)]
    return section("Parts", *content)


def _variables(variables: Sequence[Row]) -> str:
    """What each head brings, in a mechanism that is named by the variables of its task."""
    numbers = [key for key in variables[0] if key not in ("variable", "heads")]
    rows = [
        (
            f"<code>{escaped(row['variable'])}</code>",
            listed(row["heads"]),
            *(number(row.get(key)) for key in numbers),
        )
        for row in variables
    ]
    return table(("Variable", "Heads that bring it", *map(_heading, numbers)), rows) + (
        '<p class="note">Heads were named on other pairs than they were tested on. Numbers are '
        "shares of pairs in which patching the heads changes the answer as the variable would; "
        "beside the test, the same for the controls.</p>"
    )


def _heading(key: str) -> str:
    return escaped(key[:1].upper() + key[1:])


def _planes(planes: Sequence[Row], document: Document) -> str:
    keys = {str(key) for key in document.get("key_frequencies") or ()}
    shares = ("Share of logit variance", "Share of embedding")
    return table(
        ("Frequency k", "Key", "α<sub>k</sub>, nats", *shares, "Neurons"),
        [
            (
                escaped(plane["frequency"]),
                "yes" if str(plane["frequency"]) in keys else "no",
                number(plane["alpha"], 3),
                number(plane["logit_share"]),
                number(plane["embedding_share"]),
                count(plane["neurons"]),
            )
            for plane in planes
        ],
    )


def _heads(heads: Sequence[Row]) -> str:
    shares = [head.get("frequency_shares") or {} for head in heads]
    names = list(dict.fromkeys(k for share in shares for k in share))
    rows = [
        [
            escaped(head["name"]),
            number(head["accuracy_without"]),
            *(number(share.get(k)) for k in names),
        ]
        for head, share in zip(heads, shares, strict=True)
    ]
    columns = ("Head", "Accuracy without it", *(f"k = {escaped(k)}" for k in names))
    return table(columns, rows) + (
        '<p class="note">Accuracy without: over all inputs, the head set to its mean. Columns k: '
        "share of the head's output, as a function of one operand, in the plane of that "
        "frequency.</p>"
    )


# ---------------------------------------------------------------------- training


def training_section(document: Document, metrics: Sequence[Row]) -> str:
    if not metrics:
        why = "this network was imported, and " if document.get("source") else ""
        return section("Training", f"<p>No curves: {why}how it was trained is not known here.</p>")
    drawn = _thinned(metrics, DRAWN_ROWS)
    grokking = document.get("grokking_step")
    marks = [] if grokking is None else [Mark(as_float(grokking), f"grokking step {grokking}")]
    charts = [
        figure(
            line_chart(
                [
                    Series("training", _curve(drawn, f"train_{what}"), "first"),
                    Series("held out", _curve(drawn, f"held_out_{what}"), "second"),
                ],
                label=f"{what} by step. {_last(metrics, what)}",
                x_title="step",
                y_title=what + (", nats" if what == "loss" else ""),
                y_range=None if what == "loss" else (-0.02, 1.04),
                log_y=what == "loss",
                marks=marks,
            ),
            caption + _last(metrics, what),
        )
        for what, caption in (("loss", "Loss on a logarithmic axis. "), ("accuracy", "Accuracy. "))
    ]
    rows = [
        (count(row["step"]), *(number(row.get(key)) for key in _METRICS))
        for row in _thinned(metrics, LISTED_ROWS)
    ]
    return section(
        "Training",
        f'<div class="panels">{"".join(charts)}</div>',
        details("Loss and accuracy as numbers", table(("step", *map(words, _METRICS)), rows)),
    )


_METRICS = ("train_loss", "train_accuracy", "held_out_loss", "held_out_accuracy")


def _thinned(rows: Sequence[Row], most: int) -> list[Row]:
    """Every k-th row, and the last."""
    kept = list(rows[:: -(-len(rows) // most)])
    return kept if kept[-1] is rows[-1] else [*kept, rows[-1]]


def _curve(rows: Sequence[Row], key: str) -> list[tuple[float, float]]:
    return [(as_float(row["step"]), as_float(row.get(key))) for row in rows]


def _last(metrics: Sequence[Row], what: str) -> str:
    last = metrics[-1]
    return (
        f"At step {count(last['step'])}: training {number(last.get(f'train_{what}'))}, "
        f"held out {number(last.get(f'held_out_{what}'))}."
    )


# ---------------------------------------------------------------------- checking


def _check(document: Document, metrics: Sequence[Row]) -> str:
    seed, step = document.get("seed"), document.get("step")
    versions = document.get("versions") or {}
    command = f"workbench explain {shlex.quote(str(document.get('run')))}"
    if step is not None and metrics and metrics[-1]["step"] != step:
        command += f" --step {shlex.quote(str(step))}"
    told = {
        "Workbench": escaped(document.get("workbench")),
        **{escaped(name): escaped(version) for name, version in versions.items()},
        "Seed": "none is known" if seed is None else escaped(seed),
        "Step of the weights": "none is known" if step is None else escaped(step),
        "SHA-256 of the weights": f"<code>{escaped(document.get('weights_sha256'))}</code>",
    }
    text = "\n".join(escaped(line) for line in json.dumps(document, indent=1).splitlines())
    return section(
        "How to check it yourself",
        "<p>This does everything again from the weights, controls included; with <code>--json"
        "</code> it prints the numbers of this page.</p>",
        f"<pre>{escaped(command)}\n{escaped(command)} --json</pre>{facts(told)}",
        '<p class="note">The digest says that the weights are the ones tested here; it does not '
        "say who made them.</p>",
        details("The findings as JSON", f"<pre>{text}</pre>"),
    )
