"""Streams an answer of `edgekit serve` through OpenAI's Python client.

python examples/python/openai_client.py "Hello" [http://127.0.0.1:8080/v1]
"""

from __future__ import annotations

import sys

from openai import OpenAI


def main() -> None:
    """Asks the first model that the server has."""
    question = sys.argv[1] if len(sys.argv) > 1 else "Hello"
    address = sys.argv[2] if len(sys.argv) > 2 else "http://127.0.0.1:8080/v1"
    client = OpenAI(base_url=address, api_key="none")
    model = client.models.list().data[0].id
    pieces = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        max_completion_tokens=200,
        stream=True,
    )
    for piece in pieces:
        if piece.choices and piece.choices[0].delta.content:
            print(piece.choices[0].delta.content, end="", flush=True)
    print()


if __name__ == "__main__":
    main()
