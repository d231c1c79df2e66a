"""A page of charts for `test_show_browser`: what is chosen, and how often it was drawn, as text."""

import streamlit as st
import torch

from apps.web.charts.chart import Gallery
from apps.web.charts.show import choose, show, table
from tests.app.some_charts import HOSTILE, circuit, heat_map


def drawn(name: str) -> None:
    """Say how often this part of the page was drawn."""
    st.session_state[name] = st.session_state.get(name, 0) + 1
    st.text(f"{name} drawn {st.session_state[name]} times")


@st.fragment
def gallery() -> None:
    maps = tuple(heat_map(torch.randn(5, 5)) for _ in range(8))
    titles = (HOSTILE, *(f"neuron {i}" for i in range(1, 8)))
    chart = Gallery(name="neurons", alt="Neurons", maps=maps, titles=titles)
    st.text(f"map {show(chart, key='map', select=True)}")
    drawn("fragment")


st.set_page_config(layout="wide")
values = torch.tensor([[1.0, -2.0, 0.5], [0.1, float("nan"), 4.0]])
effects = heat_map(values, columns=("same", "same", HOSTILE))
st.text(f"cell {show(effects, key='cell', select=True)}")
st.button("Strongest", on_click=choose, args=("cell", 5))
st.text(f"part {show(circuit(HOSTILE), key='part', select=True, height=500)}")
rows = [{"name": HOSTILE, "share": 0.5}, {"name": "b", "share": None}, {"name": "c", "share": 1.0}]
st.text(f"row {table(rows, key='row', alt='Findings', select=True)}")
drawn("page")
gallery()
