"""Circuits: find the parts of a network that do its task, and test that they are the parts."""

from circuits.explanation import explain as explain
from circuits.tracing import find_circuit as find_circuit
from circuits.tracing import judge_circuit as judge_circuit
from circuits.tracing import problem_of as problem_of
