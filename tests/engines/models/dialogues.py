"""The dialogues that the tiny DeepSeek has learnt word for word, at temperature 0; standard library only.

The builder trains the model on them in vLLM's Python; the tests compare answers with them in Tidegate's Python.
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
        messages: the messages of the request; the answer depends on all of them.
        thinking: the reasoning; None if thinking is turned off.
        content: the answer's text.
        cities: one call of `get_weather` for each.
    """

    messages: list[dict[str, Any]]
    thinking: str | None
    content: str = ""
    cities: tuple[str, ...] = ()

    @property
    def tools(self) -> list[dict[str, Any]] | None:
        """The tools of the request: the weather tool if the first message is about the weather."""
        return [WEATHER_TOOL] if "eather" in self.messages[0]["content"] else None


def user_message(text: str) -> list[dict[str, Any]]:
    """Return the messages of a request with one message of the user."""
    return [{"role": "user", "content": text}]


SUM = user_message("What is 2+2?")
GREETING = user_message("Hello!")
STORY = user_message("Tell me a long story.")  # about 250 tokens: long enough to disconnect, crash or drain meanwhile
PARIS = user_message("What is the weather in Paris?")
PARIS_AND_ROME = user_message("Weather in Paris and Rome?")
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

PARIS_ANSWERED_WITH_THINKING = [  # V4 needs the thinking back; prompts of R1 and V3 do not contain it
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


def expected_answer(messages: list[dict[str, Any]], *, is_thinking: bool = True) -> Dialogue:
    """Return the dialogue that begins with these messages."""
    found = (one for one in DIALOGUES if one.messages == messages and (one.thinking is not None) == is_thinking)
    return next(found)
