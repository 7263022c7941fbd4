"""Errors whose message says in one sentence what was wrong and what to do."""


class ExplainedError(Exception):
    """Ends a notebook's cell with its one sentence, without a traceback through the package."""

    def _render_traceback_(self) -> list[str]:  # IPython calls this
        return [f"{type(self).__name__}: {self}"]


class SettingError(ExplainedError, ValueError):
    """A parameter whose value cannot work; the message names both."""


class DataError(ExplainedError, ValueError):
    """Rows that cannot be used; the message names the file, the row and the column."""


class ModelError(ExplainedError, RuntimeError):
    """A model that is missing or cannot be used."""


class RunError(ExplainedError, RuntimeError):
    """A run that cannot go on: something is missing, stale, or out of range."""


class PPOError(ExplainedError, RuntimeError):
    """Training that must not go on."""
