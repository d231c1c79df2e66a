"""Every error the Workbench raises on purpose: what went wrong, what was got, how to mend it.

All of them derive from `WorkbenchError`. The command line prints the message on one
line and exits with status 2; anything else that escapes is our fault and exits with 1.
"""


class WorkbenchError(Exception):
    """The user's mistake, or a file that cannot be trusted; the message says how to mend it."""


class UnknownName(WorkbenchError):
    """A task, recipe, mechanism, hook or key that is not registered."""


class ConfigError(WorkbenchError):
    """A configuration with an unknown key, or a value outside its range."""


class TaskError(WorkbenchError):
    """A task that cannot exist (composite p), or an input outside its domain."""


class PairError(WorkbenchError):
    """Clean and corrupted inputs that do not form a pair."""


class WeightsError(WorkbenchError):
    """Weights whose names, shapes, dtypes or values do not fit the configuration."""


class HookError(WorkbenchError):
    """A hook name that this network does not have, or one that never fired."""


class MetricError(WorkbenchError):
    """A metric that is not registered, or that returned a wrong shape, NaN or infinity."""


class CircuitError(WorkbenchError):
    """A circuit, edge or method that cannot be, or an effect that is not defined."""


class ProbeError(WorkbenchError):
    """Labels, activations or a probe that cannot be: constant labels, NaN, a wrong width."""


class SweepError(WorkbenchError):
    """A batch of probes whose plan changed, whose files are damaged, or that cannot be written."""


class RunError(WorkbenchError):
    """A run directory that is missing, incomplete, damaged, locked or from a newer version."""


class SessionError(WorkbenchError):
    """A session file that cannot be trusted, read or written, or a finding that cannot replay."""


class TrainingError(WorkbenchError):
    """Training that diverged or collapsed."""


class ResourceError(WorkbenchError):
    """Work whose smallest part does not fit in memory."""


class DeviceError(WorkbenchError):
    """A device that was asked for and is not there."""


class AppError(WorkbenchError):
    """Something a page or a job of the app was asked for and cannot do."""
