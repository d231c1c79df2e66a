"""The Workbench: tasks, transformers, training and runs."""

from workbench.importing import import_network as import_network
from workbench.run import open_run as open_run
from workbench.task import make_task as make_task
from workbench.version import __version__ as __version__
