"""The question of the Trace page: which inputs, which metric, and what patching means.

`draw_question` draws its controls, whose values are in the address; `question` reads them again, so
that every section of the page, and every page that links here, goes by one frozen value.
"""

from dataclasses import dataclass
from typing import Any, cast

import streamlit as st
import torch

from apps.web.cache import remembered
from apps.web.choice import Network
from apps.web.inputs import default_of, input_choice, operands, text_of, twin_of
from apps.web.words import help_of
from circuits.analyses.patching import PatchingAnalysis
from circuits.problem import ABLATIONS, Ablation, Direction
from workbench import config
from workbench.metrics import METRICS
from workbench.pairs import Pairs, draw_mixed_pairs, pairs_from_text, usual_corruptions

FAMILY, PAIR = "Family", "One pair"
"""Options of the first control, as the address spells them."""
DIRECTIONS: tuple[Direction, ...] = ("denoising", "noising")
TOO_FEW = (
    ":material/info: One pair is too few to find or judge a circuit on: the numbers below are of "
    "the pairs drawn here. Your pair is kept for Effects."
)
USUAL_PAIRS, MOST_PAIRS = 64, 512
"""Of a family. More than the most belongs on the command line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedQuestion:
    """What is asked of the network; the fields are those of `circuits.analyses`."""

    metric: str
    ablation: Ablation
    direction: Direction
    pairs: int
    """How many are drawn; nothing is drawn where inputs are written out."""
    corruptions: tuple[str, ...]
    """The task's usual ones where empty."""
    seed: int
    clean: tuple[str, ...]
    """Inputs written out, such as `37 + 92 =`; none where pairs are drawn."""
    corrupted: tuple[str, ...]

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of an analysis that may be asked of written pairs."""
        return self.drawn | {"clean": self.clean, "corrupted": self.corrupted}

    @property
    def drawn(self) -> dict[str, Any]:
        """The parameters of an analysis that draws its pairs."""
        names = ("metric", "ablation", "direction", "pairs", "corruptions", "seed")
        return {name: getattr(self, name) for name in names}

    def patching(self, site: str, by: tuple[str, ...]) -> PatchingAnalysis:
        """The sweep over one kind of part. Raises `ConfigError`."""
        asked = self.parameters | {"site": site, "by": by}
        return config.from_dict(PatchingAnalysis, asked, where="the question")


def question(network: Network) -> AskedQuestion:
    """What the controls of the page say; the usual question where they were not drawn yet."""
    known = corruptions_of(network)
    clean, corrupted = _written(network) if _value("trace_of", FAMILY) == PAIR else ((), ())
    return AskedQuestion(
        metric=_value("trace_metric", METRICS[0]),
        ablation=cast(Ablation, _value("trace_ablation", ABLATIONS[0])),
        direction=cast(Direction, _value("trace_direction", DIRECTIONS[0])),
        pairs=_value("trace_pairs", USUAL_PAIRS),
        corruptions=tuple(one for one in _value("trace_corruptions", []) if one in known),
        seed=_value("trace_seed", 0),
        clean=clean,
        corrupted=corrupted,
    )


def draw_question(network: Network, *, of_circuit: bool = False) -> AskedQuestion:
    """Draw the controls of the question, in two rows. Raises for inputs that are no pair.

    `of_circuit`: a circuit is judged on drawn pairs, whatever pair is written.
    """
    first = st.columns([1.3, 3.7], vertical_alignment="bottom")
    with first[0]:
        of = st.segmented_control(
            "Inputs",
            (FAMILY, PAIR),
            default=FAMILY,
            required=True,
            key="trace_of",
            bind="query-params",
            help="Many pairs drawn at random, so that numbers have intervals; or one pair that you "
            "write yourself.",
        )
    with first[1]:
        if of == PAIR and not of_circuit:
            _draw_pair(network)
        else:
            _draw_family(network)
    if of == PAIR and of_circuit:
        st.caption(TOO_FEW)
    _draw_measure()
    asked = question(network)
    if not of_circuit:
        pairs_of(network, asked)
    return asked


@remembered
def pairs_of(network: Network, asked: AskedQuestion) -> Pairs:
    """The pairs of a question, those that its analysis is asked of.

    Raises `TaskError` for what cannot be read, `PairError` for what is no pair.
    """
    task = network.task
    if asked.clean:
        return pairs_from_text(task, asked.clean, asked.corrupted)
    generator = torch.Generator().manual_seed(asked.seed)
    hows = asked.corruptions or usual_corruptions(task)
    return draw_mixed_pairs(task, hows, asked.pairs, generator)


def corruptions_of(network: Network) -> dict[str, str]:
    """The corruptions that pairs can be drawn by, with what each does."""
    known = network.task.corruptions.items()
    return {name: one.summary for name, one in known if "answer" not in one.keeps}


def _draw_family(network: Network) -> None:
    known = corruptions_of(network)
    n, hows, seed = st.columns([1, 3, 1])
    n.number_input(
        "Pairs",
        min_value=1,
        max_value=MOST_PAIRS,
        value=USUAL_PAIRS,
        key="trace_pairs",
        bind="query-params",
        help="How many pairs are drawn. With 8 or more, the strongest part is tested on pairs that "
        "it was not chosen on.",
    )
    usual = " and ".join(usual_corruptions(network.task))
    hows.multiselect(
        "Corruptions",
        list(known),
        key="trace_corruptions",
        bind="query-params",
        max_selections=8,
        placeholder=f"usual: {usual}",
        help="How the corrupted input is made from the clean one, in equal shares.  \n"
        + "  \n".join(f"{name}: {summary}" for name, summary in known.items()),
    )
    seed.number_input(
        "Seed",
        min_value=0,
        max_value=2**32 - 1,
        value=0,
        key="trace_seed",
        bind="query-params",
        help="Another seed draws other pairs, and other random circuits to compare with.",
    )


def _draw_pair(network: Network) -> None:
    left, right = st.columns(2)
    with left:
        clean = input_choice(network, "clean", label="Clean input")
    with right:
        twin = twin_of(network.task, clean)
        input_choice(network, "corrupted", label="Corrupted input", default=twin)


def _written(network: Network) -> tuple[tuple[str], tuple[str]]:
    """The pair of the two boxes; the usual ones where they are empty or cannot be read."""
    task = network.task
    clean = operands(network, "clean") or default_of(task)
    corrupted = operands(network, "corrupted") or twin_of(task, clean)
    return (text_of(task, clean),), (text_of(task, corrupted),)


def _draw_measure() -> None:
    direction, metric, ablation = st.columns(3)
    with direction:
        _choice("Direction", DIRECTIONS, "trace_direction", "direction", "denoising", "noising")
    with metric:
        _choice("Metric", METRICS, "trace_metric", "metric", "logit difference")
    with ablation:
        _choice("Ablation", ABLATIONS, "trace_ablation", "ablation")


def _choice(label: str, options: tuple[str, ...], key: str, *terms: str) -> None:
    st.selectbox(label, options, key=key, bind="query-params", help=help_of(*terms))


def _value(key: str, usual: Any) -> Any:
    found = st.session_state.get(key)
    return usual if found is None else found
