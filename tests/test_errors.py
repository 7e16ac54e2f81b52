"""Errors are one line with file, problem and remedy, and cross processes whole."""

from __future__ import annotations

import pickle

from wsipipe.errors import SlideError, WsipipeError


def test_an_error_tells_file_problem_and_remedy():
    error = SlideError("is cut off", path="a.svs", remedy="copy it again")
    assert str(error) == "a.svs: is cut off (copy it again)"
    assert str(WsipipeError("just so")) == "just so"


def test_an_error_is_pickled_whole():
    error = SlideError("is cut off", path="a.svs", remedy="copy it again")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is SlideError
    assert str(again) == str(error)
