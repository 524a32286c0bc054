"""smolagents: an agent whose every step is a tool call that parses, since the server enforces the tools' schemas.

pip install "chatplan[serve]" openai smolagents
python examples/ecosystem/smolagents_agent.py                          # starts a server in this process
python examples/ecosystem/smolagents_agent.py http://127.0.0.1:8000/v1
"""

from __future__ import annotations

from typing import Any

from serving import model_of, server_url
from smolagents import LogLevel, OpenAIServerModel, Tool, ToolCallingAgent  # type: ignore[import-untyped]


class Weather(Tool):  # type: ignore[misc]
    name = "weather"
    description = "The weather of a city."
    inputs = {"city": {"type": "string", "description": "The city", "enum": ["Paris", "Bern"]}}  # noqa: RUF012
    output_type = "string"

    def forward(self, city: str) -> str:
        return f"It is sunny in {city}."


def model(url: str, **fields: Any) -> Any:
    return OpenAIServerModel(model_of(url), api_base=url, api_key="none", **fields)


def main() -> None:
    with server_url() as url:
        # A plain answer, with a constraint that smolagents knows nothing of.
        chosen = model(url, temperature=0, extra_body={"guided_choice": ["Paris", "London"]})
        question = [{"role": "user", "content": "What is the capital of France?"}]
        print("answer:", chosen.generate(question).content)

        # An agent: each step must call a tool. Which one, and with what, is the model's part.
        agent = ToolCallingAgent(
            [Weather()], model(url, temperature=0, max_tokens=60), max_steps=1, verbosity_level=LogLevel.OFF
        )
        agent.run("What is the weather in Paris?")
        for step in agent.memory.steps:
            for call in getattr(step, "tool_calls", None) or []:
                print("step:", call.name, call.arguments, "->", step.observations)


if __name__ == "__main__":
    main()
