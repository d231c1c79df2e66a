"""What a training order would do, in words, before it is done."""

import streamlit as st

from apps.orders.train import TrainOrder
from apps.targets import Plan
from apps.web.choice import run_names
from apps.web.shell import escaped
from apps.web.train.runs import COMPLETE, summaries
from workbench.model_config import n_params
from workbench.recipe import RECIPES
from workbench.train import check_training


def describe(order: TrainOrder, *, running: bool) -> None:
    """Say what would be trained, on how much. Raises `WorkbenchError` for what cannot be.

    Args:
        running: whether a job is training some of it now.
    """
    plan = order.plan()
    check_training(plan.task, plan.model, plan.recipe)
    st.markdown(escaped(plan_words(order)))
    if plan.recipe.train_fraction > RECIPES[plan.recipe_name].train_fraction:
        st.caption(escaped(why_so_many(plan)))
    if running:
        st.caption("Being trained now: Train shows the job that does.")
        return
    there = [name for name in order.run_names() if name in run_names()]
    if there:
        complete = {one.name for one in summaries() if one.state == COMPLETE}
        st.caption(there_words(len(order.seeds), len(there), sum(one in complete for one in there)))


def why_so_many(plan: Plan) -> str:
    """Why a small p trains on a larger share than the recipe has."""
    usual = RECIPES[plan.recipe_name].train_fraction
    return (
        f"The recipe's own share is {usual:.0%}. A small p has few pairs in all, and from few "
        "pairs a network learns the answers by heart instead of a rule."
    )


def plan_words(order: TrainOrder) -> str:
    """`1 network of 202,944 parameters, 480 steps, trained on 2,089 of 3,481 inputs (60 %).`"""
    plan = order.plan()
    n, fraction = len(order.seeds), plan.recipe.train_fraction
    size = plan.task.domain_size
    inputs = f"{round(fraction * size):,} of {size:,}" if plan.task.enumerable else f"of {size:,}"
    return (
        f"{n} network{'' if n == 1 else 's'} of {n_params(plan.model):,} parameters, "
        f"{plan.recipe.steps:,} steps, trained on {inputs} inputs ({fraction:.0%})."
    )


def there_words(n: int, there: int, complete: int) -> str:
    """Of `n` runs, so many are there, and so many of those are complete."""
    if complete == n:
        return "Trained already: Train only shows it again."
    begun = there - complete
    words = [f"{complete} of {n} trained already"] if complete else []
    words += [f"{begun} of {n} begun earlier, to go on where training stopped"] if begun else []
    return "; ".join(words).capitalize() + "."
