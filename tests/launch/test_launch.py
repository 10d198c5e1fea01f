"""Launch files: linted, run dry or with stand-ins for what they call, and all ending in the same command."""
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
MODULE = "medvlp_jax.train"


def run(script, *arguments, commands, tmp_path, **environment):
    """The script with stand-ins {name: shell text} for programs -> (exit code, what was called, stderr)."""
    folder, calls = tmp_path / "bin", tmp_path / "calls"
    folder.mkdir(exist_ok=True)
    calls.write_text("")
    for name, text in commands.items():
        (folder / name).write_text(f'#!/bin/bash\necho "{name} $*" >> {calls}\n{text}\n')
        (folder / name).chmod(0o755)
    done = subprocess.run([LAUNCH / script, *arguments], capture_output=True, text=True, timeout=60, cwd=tmp_path,
                          env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", **environment})  # fmt: skip
    return done.returncode, calls.read_text().splitlines(), done.stderr + done.stdout


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_scripts_parse_and_lint(path):
    subprocess.run(["bash", "-n", path], check=True)
    assert os.access(path, os.X_OK) and "set -euo pipefail" in path.read_text()
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", path], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_every_way_ends_in_the_same_command():
    for path in SCRIPTS:
        assert re.search(rf'python -m {MODULE}( --distributed=on)? ("\$@"|\$options)', path.read_text()), path
    assert f"command: [python, -m, {MODULE}]" in (LAUNCH / "gke.yaml").read_text()
    assert f'"{MODULE}"' in (LAUNCH / "Dockerfile").read_text()


RECORD = 'echo "$JAX_COORDINATOR_ADDRESS $JAX_NUM_PROCESSES $JAX_PROCESS_ID" >> env; '


def test_local_starts_all_processes_with_their_numbers(tmp_path):
    code, calls, _ = run("local.sh", "3", "--config=c.py", commands={"python": RECORD}, tmp_path=tmp_path, PORT="4000")
    assert code == 0 and calls == [f"python -m {MODULE} --config=c.py"] * 3
    assert sorted((tmp_path / "env").read_text().split("\n")[:-1]) == [f"127.0.0.1:4000 3 {i}" for i in range(3)]


def test_local_starts_again_when_a_process_is_lost_and_not_on_a_mistake(tmp_path):
    lost = 'test -e again || { test "$JAX_PROCESS_ID" = 0 || { sleep 0.3; touch again; }; exit 3; }'
    code, calls, text = run("local.sh", "2", commands={"python": lost}, tmp_path=tmp_path)
    assert code == 0 and len(calls) == 4 and "attempt 1 ended with 3" in text
    code, calls, _ = run("local.sh", "2", commands={"python": "exit 2"}, tmp_path=tmp_path)
    assert code == 2 and len(calls) == 2
    code, calls, _ = run("local.sh", "1", commands={"python": "exit 1"}, tmp_path=tmp_path, RESTARTS="2")
    assert code == 1 and len(calls) == 3


def test_local_passes_a_signal_on_and_waits_for_the_processes_to_save(tmp_path):
    waits = f"trap 'sleep 0.3; echo saved >> {tmp_path}/saved; exit 0' TERM; touch {tmp_path}/up$JAX_PROCESS_ID"
    waits += "; while :; do sleep 0.05; done"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text(f"#!/bin/bash\n{waits}\n")
    (tmp_path / "bin" / "python").chmod(0o755)
    process = subprocess.Popen([LAUNCH / "local.sh", "2"], env={**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"})
    try:
        for _ in range(200):
            if (tmp_path / "up0").exists() and (tmp_path / "up1").exists():
                break
            subprocess.run(["sleep", "0.05"])
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
    assert (tmp_path / "saved").read_text() == "saved\nsaved\n"


def test_slurm_goes_back_into_the_queue_when_a_process_is_lost_or_at_a_signal(tmp_path):
    options = {"SLURM_JOB_ID": "7", "tmp_path": tmp_path}
    code, calls, _ = run("slurm.sh", "--config=c.py", commands={"srun": "exit 3", "scontrol": ""}, **options)
    assert code == 0 and calls[-1] == "scontrol requeue 7"
    assert calls[0] == f"srun --kill-on-bad-exit=1 --wait=120 python -m {MODULE} --config=c.py"
    code, calls, _ = run("slurm.sh", commands={"srun": "exit 3", "scontrol": ""}, SLURM_RESTART_COUNT="20", **options)
    assert code == 3 and len(calls) == 1
    for status in (0, 2):
        code, calls, _ = run("slurm.sh", commands={"srun": f"exit {status}", "scontrol": ""}, **options)
        assert code == status and len(calls) == 1
    preempted = {"srun": "kill -TERM $PPID; sleep 0.5; echo saved > saved", "scontrol": "test -e saved"}
    code, calls, _ = run("slurm.sh", commands=preempted, **options)
    assert code == 0 and calls[-1] == "scontrol requeue 7"
    text = (LAUNCH / "slurm.sh").read_text()
    assert "#SBATCH --requeue" in text and "#SBATCH --signal=TERM@300" in text


TPU = {"PROJECT": "p", "ZONE": "z", "TYPE": "v6e-64", "VERSION": "v", "BUCKET": "gs://b"}


def test_tpu_vm_makes_the_slice_again_until_the_run_is_done(tmp_path):
    gcloud = 'case "$*" in *describe*) echo ACTIVE;; *medvlp_jax.train*) test -e again || { touch again; exit 1; };; esac'
    code, calls, text = run("tpu_vm.sh", "--config=a b", commands={"gcloud": gcloud}, tmp_path=tmp_path, **TPU)
    assert code == 0 and "attempt 1 ended with 1" in text
    verbs = [re.search(r"create|describe|delete|install|medvlp_jax.train", line)[0] for line in calls]
    assert verbs == ["create", "describe", "install", "medvlp_jax.train", "delete"] * 2
    assert "--accelerator-type=v6e-64" in calls[0] and calls[0].endswith("--spot")
    assert r"--distributed=on --config=a\ b" in calls[3] and "--worker=all" in calls[3]
    code, calls, text = run("tpu_vm.sh", commands={"gcloud": "exit 9"}, tmp_path=tmp_path, DRY="1", **TPU)
    assert code == 0 and not calls and text.count("gcloud compute tpus") == 4
    code, _, text = run("tpu_vm.sh", commands={"gcloud": ""}, tmp_path=tmp_path)
    assert code != 0 and "PROJECT" in text


def test_gke_is_a_jobset_whose_parts_fit_together():
    jobset = yaml.safe_load((LAUNCH / "gke.yaml").read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] > 0
    (job,) = jobset["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    rows, columns = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert spec["parallelism"] == spec["completions"] == rows * columns // chips and spec["backoffLimit"] == 0
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    assert pod["terminationGracePeriodSeconds"] >= 120 and pod["restartPolicy"] == "Never"


def test_the_flags_in_the_files_exist(monkeypatch):
    """Those of gke.yaml are parsed as a user's would be."""
    import sys

    from absl import flags

    from medvlp_jax import cli, train

    jobset = yaml.safe_load((LAUNCH / "gke.yaml").read_text())
    arguments = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]["args"]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["train", *arguments])
    values = flags.FlagValues()
    train.define_flags(values)
    cli.define_config(sys.argv, values)
    values(sys.argv)
    assert values.config.data.batch_size == 8192 and values.distributed == "on"


def test_the_dockerfile_copies_what_is_there():
    lines = (LAUNCH / "Dockerfile").read_text().splitlines()
    copied = [name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]]
    assert copied and all((ROOT / name).exists() for name in copied)
    assert [line.split()[0] for line in lines if line and not line.startswith("#")][0] == "FROM"
