"""The README's way to Cloud Run: few commands, each of which names what is there."""

import os
import re
import subprocess
from pathlib import Path

from tests.support import terraform
from tests.support.process import ROOT
from tests.support.readme import block

COMMANDS = block("Deploy to Cloud Run", "sh")


def test_it_is_at_most_ten_commands() -> None:
    assert 1 < len(COMMANDS.splitlines()) <= 10


def test_the_commands_run_in_their_order(tmp_path: Path) -> None:
    """With a terraform and a gcloud that write down what they are told; terraform's outputs are those of outputs.tf."""
    log = tmp_path / "log"
    (tmp_path / "terraform").mkdir()
    (tmp_path / "terraform" / "terraform.tfvars.example").write_text("")
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    for name, output in terraform.blocks("output").items():
        choice = re.search(r'\? "(.*)" : null', output["value"])
        command = choice[1].replace('\\"', '"') if choice else output["value"]
        (outputs / name).write_text(re.sub(r"\$\{[^}]*\}", "x", command))
    stubs = {
        "gcloud": f'echo "gcloud $*" >> {log}',
        "python": f'echo "python $*" >> {log}',
        "git": "echo 0123abcd",
        "terraform": f'echo "terraform $*" >> {log}; if [ "$2" = output ]; then cat {outputs}/$4; fi',
    }
    for name, script in stubs.items():
        stub = tmp_path / "bin" / name
        stub.parent.mkdir(exist_ok=True)
        stub.write_text(f"#!/bin/sh\n{script}\n")
        stub.chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    subprocess.run(["bash", "-euc", COMMANDS], cwd=tmp_path, env={**os.environ, "PATH": path}, check=True)
    said = [line for line in log.read_text().splitlines() if " output " not in line]
    assert [line.split(" --")[0] for line in said] == [
        "gcloud auth login",
        "gcloud services enable cloudresourcemanager.googleapis.com serviceusage.googleapis.com",
        "terraform -chdir=terraform init",
        "terraform -chdir=terraform apply",
        "gcloud builds submit",
        "python -m websockets xx",
        "gcloud pubsub topics publish x",
    ]
    assert "COMMIT_SHA=0123abcd" in said[4]
    assert (ROOT / "cloudbuild.yaml").exists()
    assert "--config=cloudbuild.yaml" in said[4]
    assert said[6].endswith('--message={"text":"hello"} --attribute=type=announce,channel=news')
