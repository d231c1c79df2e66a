"""Circuits: find the parts of a network that do its task, and test that they are the parts."""

from circuits.explanation import explain as explain
