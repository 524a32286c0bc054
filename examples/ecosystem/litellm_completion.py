"""litellm: an answer, a stream, and fields that it does not know.

pip install "chatplan[serve]" litellm
python examples/ecosystem/litellm_completion.py                          # starts a server in this process
python examples/ecosystem/litellm_completion.py http://127.0.0.1:8000/v1
"""

from __future__ import annotations

import os
from typing import Any

from serving import model_of, server_url

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it fetches a list of prices when it is imported

import litellm
from litellm.exceptions import BadRequestError


def main() -> None:
    with server_url() as url:
        about: dict[str, Any] = {"model": f"openai/{model_of(url)}", "api_base": url, "api_key": "none"}
        question = [{"role": "user", "content": "What is the capital of France?"}]

        answer: Any = litellm.completion(**about, messages=question, temperature=0)
        print("answer:", answer.choices[0].message.content)

        stream: Any = litellm.completion(**about, messages=question, temperature=0, stream=True)
        print("stream:", " | ".join(chunk.choices[0].delta.content or "" for chunk in stream))

        # Fields that OpenAI does not have go into extra_body.
        more = {"guided_choice": ["Paris", "London"], "min_p": 0.1, "seed": 7}
        chosen: Any = litellm.completion(**about, messages=question, extra_body=more)
        print("constrained:", chosen.choices[0].message.content)

        litellm.suppress_debug_info = True
        try:
            litellm.completion(**about, messages=question, extra_body={"tempurature": 1})
        except BadRequestError as error:
            print("refused:", error)


if __name__ == "__main__":
    main()
