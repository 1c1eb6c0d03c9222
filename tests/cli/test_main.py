"""The command as a whole: help, usage errors, exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import reidzoo
from reidzoo.cli.main import COMMANDS, main

PROGRAM = "import sys; from reidzoo.cli.main import main; sys.exit(main())"


def test_help_names_every_command(cli):
    called = cli("--help")
    assert called.code == 0
    for name, summary in COMMANDS.items():
        assert name in called.out
        assert summary.split()[0] in called.out


def test_version(cli):
    assert cli("--version") == (0, f"reidzoo {reidzoo.__version__}\n", "")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("models", ["PATTERN", "--family", "--tag", "--json"]),
        ("info", ["MODEL", "--json"]),
        ("demo", ["--output-dir", "--seed", "--device"]),
        ("data", ["list", "check", "show", "extract", "synth"]),
        ("data list", []),
        ("data check", ["DATA", "--decode", "--strict", "--json"]),
        ("data show", ["DATA", "OUT", "--identities", "--images"]),
        ("data extract", ["ARCHIVE", "OUT", "--max-gb"]),
        ("data synth", ["OUT", "--identities", "--layout", "--seed", "--cameras"]),
        ("recipes", ["list", "show"]),
        ("pretrain", ["MODEL", "DATA", "--output-dir", "--method", "--recipe", "--config", "--local-crops"]),
        ("finetune", ["MODEL", "DATA", "--output-dir", "--method", "--config", "--overwrite", "--triplet-weight"]),
        (
            "evaluate",
            ["MODEL", "DATA", "--img-size", "--batch-size", "--no-flip", "--device", "--json", "--output-dir"],
        ),
        ("cfs", ["DATA", "OUT", "--source", "--target", "--img-size", "--precision", "--overwrite"]),
        ("extract", ["MODEL", "IMAGES", "OUT", "--split", "--img-size", "--no-flip"]),
        ("doctor", ["--json"]),
    ],
)
def test_help_of_every_command(cli, command, expected):
    called = cli(*command.split(), "--help")
    assert called.code == 0
    assert "--debug" in called.out
    for flag in expected:
        assert flag in called.out, flag


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required: COMMAND"),
        (["finetun"], "there is no command 'finetun'. Did you mean 'finetune'?"),
        (["--verison"], "there is no flag --verison. Did you mean --version?"),
        (["models", "--famly", "vit"], "there is no flag --famly. Did you mean --family?"),
        (["info"], "required: MODEL"),
        (["data"], "required: COMMAND"),
        (["data", "check"], "required: DATA"),
        (["data", "synth", "x", "--identites", "3"], "Did you mean --identities?"),
        (["pretrain", "resnet18", "folder:x"], "required: --output-dir"),
        (["finetune", "a", "b", "--output-dir", "c", "--epoch", "3"], "Did you mean --epochs"),
        (["finetune", "a", "b", "--output-dir", "c", "--epochs", "many"], "--epochs"),
        (["finetune", "a", "b", "--output-dir", "c", "--local-crops", "3"], "there is no flag --local-crops"),
        (["finetune", "a", "b", "--output-dir", "c", "--method", "transred"], "Did you mean 'transreid'?"),
        (["pretrain", "a", "b", "--output-dir", "c", "--method", "con"], "Did you mean 'cion'?"),
        (["pretrain", "a", "b", "--output-dir", "c", "--method"], "--method"),
        (["pretrain", "a", "b", "--output-dir", "c", "--img-size", "256"], "'256' is not HEIGHTxWIDTH"),
        (["pretrain", "a", "b", "--output-dir", "c", "--precision", "fp8"], "fp8"),
        (["finetune", "a", "b", "--output-dir", "c", "--mean", "0.5"], "3 numbers with commas"),
        (["pretrain", "a", "b", "--output-dir", "c", "--num-instances", "0:2:4"], "EPOCH:K"),
        (["evaluate", "a", "b", "--weights", "f", "--pretrained"], "not allowed with"),
    ],
)
def test_bad_usage_is_2_and_says_what_to_type(cli, words, message):
    called = cli(*words)
    assert called.code == 2
    assert called.out == ""
    usage, error = called.err.split("reidzoo: error: ")
    assert usage.startswith("usage: reidzoo")
    assert message in error


def test_errors_are_one_line_without_traceback(cli):
    called = cli("info", "resnet51")
    assert (called.code, called.out) == (1, "")
    assert called.err.startswith("reidzoo: error: There is no model 'resnet51'. Did you mean 'resnet50'")
    assert called.err.count("\n") == 1


@pytest.mark.parametrize("words", [["--debug", "info", "resnet51"], ["info", "resnet51", "--debug"]])
def test_debug_shows_the_traceback(words):
    with pytest.raises(reidzoo.errors.UnknownModelError):
        main(words)


def test_a_bug_is_one_line_too(cli, tmp_path):
    # A folder where a file is expected: nobody's ReidzooError.
    (tmp_path / "settings.json").mkdir()
    called = cli(
        "finetune", "resnet18", "synthetic", "--output-dir", tmp_path / "run", "--config", tmp_path / "settings.json"
    )
    assert called.code == 1
    assert called.err.startswith("reidzoo: error: ")
    assert "Traceback" not in called.err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full is a thing of Linux")
def test_a_full_disk_is_said_with_what_to_do(capsys):
    with open("/dev/full", "w") as disk, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", disk)
        assert main(["recipes", "list"]) == 1
    assert capsys.readouterr().err == (
        "reidzoo: error: [Errno 28] No space left on device. Free some; then type the command again.\n"
    )


def test_a_closed_pipe_is_no_error():
    command = f"{sys.executable} -c '{PROGRAM}' models | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.returncode == 0
    assert done.stdout.startswith("model")


def test_the_log_handler_does_not_stay(cli):
    import logging

    before = logging.getLogger("reidzoo").handlers[:]
    cli("models")
    assert logging.getLogger("reidzoo").handlers == before
