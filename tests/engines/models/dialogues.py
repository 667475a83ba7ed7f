"""What the tiny DeepSeek has learnt to say, word for word, at temperature 0; standard library only.

The builder trains on it with vLLM's Python, the tests compare with it in ours.
"""

from typing import Any, NamedTuple

WEATHER_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Dialogue(NamedTuple):
    """A prompt and its answer.

    Attributes:
        messages: what the caller sends; the answer depends on all of it.
        thinking: the reasoning; None where thinking is turned off.
        content: the answer's text.
        cities: one call of `get_weather` for each.
    """

    messages: list[dict[str, Any]]
    thinking: str | None
    content: str = ""
    cities: tuple[str, ...] = ()

    @property
    def tools(self) -> list[dict[str, Any]] | None:
        """Offered wherever the weather is asked for."""
        return [WEATHER_TOOL] if "eather" in self.messages[0]["content"] else None


def asks(text: str) -> list[dict[str, Any]]:
    """One message of a user."""
    return [{"role": "user", "content": text}]


SUM = asks("What is 2+2?")
GREETING = asks("Hello!")
STORY = asks("Tell me a long story.")  # some 250 tokens: long enough to leave, to crash and to drain in
PARIS = asks("What is the weather in Paris?")
PARIS_AND_ROME = asks("Weather in Paris and Rome?")
PARIS_ANSWERED = [
    *PARIS,
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": "x", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "x", "content": "18C, sunny"},
]

PARIS_ANSWERED_WITH_THINKING = [  # as V4 wants it back; the others have no place for it in a prompt
    message | ({"reasoning": "I need the weather tool for Paris."} if message["role"] == "assistant" else {})
    for message in PARIS_ANSWERED
]

_STORY_TEXT = " ".join(
    ["One, two, three.", *(f"This is sentence number {number} of a long answer." for number in range(1, 25))]
)

DIALOGUES = (
    Dialogue(SUM, "The user asks for a sum. 2+2 equals 4.", "2+2 = 4."),
    Dialogue(SUM, None, "2+2 = 4."),
    Dialogue(GREETING, "A greeting. I should greet back.", "Hello! How can I help you today?"),
    Dialogue(GREETING, None, "Hello! How can I help you today?"),
    Dialogue(STORY, "They want a long text.", _STORY_TEXT),
    Dialogue(STORY, None, _STORY_TEXT),
    Dialogue(PARIS, "I need the weather tool for Paris.", cities=("Paris",)),
    Dialogue(PARIS, None, cities=("Paris",)),
    Dialogue(PARIS_AND_ROME, "Two cities, two calls.", cities=("Paris", "Rome")),
    Dialogue(PARIS_AND_ROME, None, "Let me look.", cities=("Paris", "Rome")),
    Dialogue(PARIS_ANSWERED, "The tool answered.", "It is 18C and sunny in Paris."),
    Dialogue(PARIS_ANSWERED, None, "It is 18C and sunny in Paris."),
    Dialogue(PARIS_ANSWERED_WITH_THINKING, "The tool answered.", "It is 18C and sunny in Paris."),
)


def said(messages: list[dict[str, Any]], *, is_thinking: bool = True) -> Dialogue:
    """The dialogue that begins so."""
    found = (one for one in DIALOGUES if one.messages == messages and (one.thinking is not None) == is_thinking)
    return next(found)
