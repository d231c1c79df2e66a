"""What importing costs: the library layers never pull in TransformerLens or Streamlit."""

import subprocess
import sys

IMPORT_EVERYTHING = """
import importlib, pkgutil, sys
for name in ("workbench", "circuits", "probes"):
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        if module.name != "workbench.bridge":
            importlib.import_module(module.name)
print(*sys.modules)
"""


def test_heavy_packages_stay_out() -> None:
    """Every module of the library except `workbench.bridge`, whose subject TransformerLens is."""
    command = [sys.executable, "-c", IMPORT_EVERYTHING]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    assert {"workbench.transformer", "circuits", "probes"} <= modules
    assert {"transformer_lens", "transformers", "streamlit", "workbench.bridge"} & modules == set()
