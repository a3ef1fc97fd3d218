"""lm-evaluation-harness on a bundle, where `edgekit[lm-eval]` is installed; it is large, so that others skip this."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgekit.cli.main import main
from edgekit.conversion import convert
from tests.conftest import DEMO
from tests.test_tasks import LINES

TASK = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{"test": "{file}"}}
test_split: test
{rest}
"""
CHOICE = r"""output_type: multiple_choice
doc_to_text: "Question: {{question}}\nAnswer:"
doc_to_target: "{{choices.label.index(answerKey)}}"
doc_to_choice: "{{choices.text}}"
metric_list: [{metric: acc}, {metric: acc_norm}]"""
WRITING = """output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answerKey}}"
generation_kwargs: {until: ["."], max_gen_toks: 12}
metric_list: [{metric: exact_match}]"""
WHOLE = """output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list: [{metric: word_perplexity}]"""


@pytest.mark.slow
def test_the_harness_gets_what_eval_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    harness = pytest.importorskip("lm_eval", reason="lm_eval is not installed: edgekit[lm-eval]")
    from lm_eval.tasks import TaskManager

    import edgekit.lm_eval  # noqa: F401

    bundle = convert(DEMO, tmp_path / "demo", "q8").path
    lines = tmp_path / "arc_easy.jsonl"
    lines.write_text("".join(json.dumps(line) + "\n" for line in LINES["arc_easy"]))
    for name, rest in (("choice", CHOICE), ("writing", WRITING), ("whole", WHOLE)):
        (tmp_path / f"{name}.yaml").write_text(TASK.format(name=name, file=lines, rest=rest))
    found = harness.simple_evaluate(
        model="edgekit", model_args=f"bundle={bundle},ram=12M", tasks=["choice", "writing", "whole"],
        task_manager=TaskManager(include_path=str(tmp_path)), bootstrap_iters=0,
    )  # fmt: skip
    capsys.readouterr()  # the harness prints as it goes
    assert main(["eval", str(bundle), "--tasks", "arc_easy", "--task-dir", str(tmp_path), "--json"]) == 0
    ours = json.loads(capsys.readouterr().out)["tasks"][0]
    choice = found["results"]["choice"]
    assert (choice["acc,none"], choice["acc_norm,none"]) == (ours["accuracy"], ours["accuracy_norm"])
    assert all("." not in sample["resps"][0][0] for sample in found["samples"]["writing"])
    assert found["results"]["whole"]["word_perplexity,none"] > 1
