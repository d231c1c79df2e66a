"""Train."""
import streamlit as st
from apps.web.view import View, views

def draw() -> None:
    st.write("train")
views.register("train")(View(title="Train", icon=":material/school:", order=0, summary="Train a network.", needs_network=False, draw=draw))
