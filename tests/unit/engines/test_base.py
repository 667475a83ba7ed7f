"""The shared types of the engines package: errors."""

from tidegate.engines.base import EngineError, PermanentEngineError


def test_the_text_of_an_error_is_its_message_followed_by_the_output():
    error = PermanentEngineError("it ended", ["a", "b"])
    assert (error.message, error.output, str(error)) == ("it ended", ("a", "b"), "it ended: a; b")
    assert str(EngineError("it ended")) == "it ended"


def test_a_permanent_error_is_an_engine_error():
    assert issubclass(PermanentEngineError, EngineError)
