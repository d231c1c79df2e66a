"""Network."""
import streamlit as st
from apps.web.network import chosen_network
from apps.web.view import View, views

def draw() -> None:
    n = chosen_network()
    st.write(str(n and n.content), n and n.step)
    st.selectbox("X", ["a","b"], key="net_x", bind="query-params")
    ev = st.echarts_chart({"xAxis":{"type":"category","data":["A","B"]},"yAxis":{"type":"category","data":["A","B"]},"visualMap":{"min":0,"max":3},"series":[{"type":"heatmap","selectedMode":"single","data":[[0,0,1],[0,1,2],[1,0,3]]}]}, on_select="rerun", key="heat", renderer="svg", alt="x")
    st.write(ev)
views.register("network")(View(title="Network", icon=":material/hub:", order=1, summary="Look.", needs_network=True, draw=draw))
