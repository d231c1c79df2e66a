"""The script that Streamlit runs at every click. `workbench app` starts it."""

from apps.web.shell import draw

draw()
