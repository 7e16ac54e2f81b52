"""Errors that users see: each names the file, the value received and the remedy.

Every error raised on purpose derives from `WsipipeError`, so that a command can turn it into one line and a
non-zero exit code, and a batch can go on with the next slide.
"""

from __future__ import annotations

from pathlib import Path


class WsipipeError(Exception):
    """A problem with what the user gave, described in one line.

    Parameters
    ----------
    problem : str
        What is wrong, with the value received.
    path : path-like, optional
        The file concerned; put in front of the message.
    remedy : str, optional
        What the user can do; put behind the message.
    """

    def __init__(self, problem: str, *, path: str | Path | None = None, remedy: str | None = None) -> None:
        self.problem = problem
        self.path = None if path is None else Path(path)
        self.remedy = remedy
        super().__init__(problem, path, remedy)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle with the keyword arguments, so that errors cross process boundaries whole."""
        return _rebuild, (type(self), self.problem, self.path, self.remedy)

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path is not None else ""
        how = f" ({self.remedy})" if self.remedy else ""
        return f"{where}{self.problem}{how}"


def _rebuild(kind: type[WsipipeError], problem: str, path: Path | None, remedy: str | None) -> WsipipeError:
    return kind(problem, path=path, remedy=remedy)


class GeometryError(WsipipeError):
    """A region, grid or coordinate that makes no sense."""


class SlideError(WsipipeError):
    """A slide that cannot be opened or read, or is not what it says it is."""


class ResolutionError(SlideError):
    """The resolution (um per px) of a slide is missing, contradictory or absurd."""


class TissueError(WsipipeError):
    """No tissue, or not a bright-field slide."""


class StainError(WsipipeError):
    """A slide whose stain cannot be told."""


class AnnotationError(WsipipeError):
    """An annotation file that cannot be read, or points that cannot be used."""


class ConfigError(WsipipeError):
    """A recipe with an unknown or impossible setting."""


class StoreError(WsipipeError):
    """A file of ours that is missing, cut off, of another version, or cannot be written."""


class WeightsError(WsipipeError):
    """Encoder weights that are not at hand or do not fit."""


class CheckpointError(WsipipeError):
    """A checkpoint that is none, or that does not fit the features."""


class NumericsError(WsipipeError, ValueError):
    """Arrays of the wrong shape, dtype or content."""
