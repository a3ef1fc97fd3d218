"""An agent with one tool, a calculator: the model asks, the program computes, the model goes on with the result.

python examples/python/agent.py model.edgekit "What is 17 * 23?" [--ram 2G] [--must-compute]
"""

from __future__ import annotations

import argparse
import ast
import json
import operator
from typing import Any

import edgekit

OPERATIONS: dict[type, Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
TOOL = {
    "type": "function",
    "function": {
        "name": "calculate",
        "description": "Computes two numbers joined by one of + - * /.",
        "parameters": {
            "type": "object",
            "properties": {"expression": {"type": "string", "pattern": r"^[0-9]{1,9} [-+*/] [0-9]{1,9}$"}},
            "required": ["expression"],
            "additionalProperties": False,
        },
    },
}
MOST_ROUNDS = 4


def calculate(expression: str) -> str:
    """The value of an expression of numbers, or why there is none."""

    def value(node: ast.expr) -> float:
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
            return OPERATIONS[type(node.op)](value(node.left), value(node.right))
        raise ValueError("only numbers and + - * / are allowed")

    try:
        return str(value(ast.parse(expression, mode="eval").body))
    except (ValueError, SyntaxError, ArithmeticError) as error:
        return f"error: {error}"


def answer(model: edgekit.TextModel, question: str, must_compute: bool) -> str:
    """Asks until the model answers without calling the tool."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": question}]
    for number in range(MOST_ROUNDS):
        choice = "calculate" if must_compute and number == 0 else "auto"
        message = model.chat(messages, 200, tools=[TOOL], tool_choice=choice).message
        messages.append(message)
        if not message.get("tool_calls"):
            return str(message["content"])
        for call in message["tool_calls"]:
            expression = json.loads(call["function"]["arguments"])["expression"]
            result = calculate(expression)
            print(f"[{expression} = {result}]")
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
    return "(the model did not come to an answer)"


def main() -> None:
    """Answers one question."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("question")
    parser.add_argument("--ram", help="hard memory budget, as in 2G")
    parser.add_argument("--must-compute", action="store_true", help="the first answer must be a call of the tool")
    given = parser.parse_args()
    with edgekit.load(given.bundle, ram=given.ram) as model:
        print(answer(model, given.question, given.must_compute))


if __name__ == "__main__":
    main()
