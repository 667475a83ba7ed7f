"""The words that the engines package shares."""

from tidegate.engines.base import EngineError, PermanentEngineError


def test_an_error_is_its_message_with_the_output_behind_it():
    error = PermanentEngineError("it ended", ["a", "b"])
    assert (error.message, error.output, str(error)) == ("it ended", ("a", "b"), "it ended: a; b")
    assert str(EngineError("it ended")) == "it ended"


def test_errors_of_engines_are_one_family():
    assert issubclass(PermanentEngineError, EngineError)
