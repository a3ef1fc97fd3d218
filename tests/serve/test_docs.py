"""The examples of docs/serve.md are run."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from tests.conftest import ROOT
from tests.serve.conftest import Running

PAGE = (ROOT / "docs" / "serve.md").read_text()
EXAMPLES = [c for block in re.findall(r"```bash\n(.*?)```", PAGE, re.S) for c in re.split(r"\n(?=curl)", block.strip())]


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_curl_examples_work(server: Running, example: str) -> None:
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    command = example.replace("localhost:8080", f"localhost:{server.port}").replace(
        "curl", "curl -sS --fail-with-body", 1
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    if "-N" in example:
        assert done.stdout.rstrip().endswith("data: [DONE]")
    elif "metrics" in example:
        assert "edgekit_budget_bytes" in done.stdout
    else:
        assert "error" not in json.loads(done.stdout)


def test_the_python_example_works(server: Running, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = (e for e in re.findall(r"```python\n(.*?)```", PAGE, re.S) if "openai" in e)
    exec(
        example.replace("8080", str(server.port)).replace('"model"', '"demo"').replace('model="model"', 'model="demo"')
    )
    assert capsys.readouterr().out
