"""A Python that has torch already: programs run in forks of one process, as each would in an interpreter of its own.

``python warm_python.py SOCKET`` serves until its standard input ends. ``python -IS warm_python.py SOCKET -c CODE ...``
(or a file, or ``-m MODULE``) has a program run with its own arguments, folder, environment and open files, and ends as
it ends; killed, it takes the program along. Importing torch and torchvision takes more processor time than nearly all
that tests do in processes. Of reidzoo, timm and huggingface_hub nothing is imported here: programs do that themselves.
"""

from __future__ import annotations

import array
import fcntl
import json
import os
import signal
import socket
import sys
import threading
from contextlib import suppress

FILES = 250  # as many as a message between processes can hand over, about


def ask(address: str, arguments: list[str]) -> None:
    """Have a program run, and end with its exit status or by the signal that ended it."""
    files = [number for number in range(FILES) if is_open(number)]
    wish = {"arguments": arguments, "cwd": os.getcwd(), "env": dict(os.environ), "files": files}
    text = json.dumps(wish).encode()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        handed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))]
        server.sendmsg([len(text).to_bytes(8, "little")], handed)
        server.sendall(text)
        status = int(server.makefile().read())  # to its end: by then nobody there would kill the program
    if status < 0:
        os.kill(os.getpid(), -status)
    os._exit(status)


def is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def serve(address: str) -> list[str]:
    """Fork for each program that is asked for; returns its arguments, in the fork."""
    import select

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the programs
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        print("ready", flush=True)
        while select.select([listener, sys.stdin], [], [])[0] == [listener]:
            client, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                return start(client)
            client.close()
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
    os._exit(0)


def start(client: socket.socket) -> list[str]:
    """Wait for the program in this process and run it in another, which gets what belongs to the client."""
    size, files, _, _ = socket.recv_fds(client, 8, FILES)
    wish = json.loads(client.makefile("rb").read(int.from_bytes(size, "little")))
    if program := os.fork():
        for file in (0, 1, 2, *files):
            os.close(file)
        threading.Thread(target=lambda: client.recv(1) or os.kill(program, signal.SIGKILL), daemon=True).start()
        status = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
        client.sendall(str(status).encode())
        os._exit(0)
    client.close()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    high = [fcntl.fcntl(file, fcntl.F_DUPFD, FILES) for file in files]  # out of the way of the numbers they get
    for file in files:
        os.close(file)
    for file, number in zip(high, wish["files"], strict=True):
        os.dup2(file, number)
        os.close(file)
    os.chdir(wish["cwd"])
    os.environ.clear()
    os.environ.update(wish["env"])
    return wish["arguments"]


def run(arguments: list[str]) -> None:
    """What `python` does with `arguments`."""
    import runpy

    while arguments[0].startswith("-") and arguments[0] not in ("-c", "-m"):
        arguments = arguments[1:]
    if arguments[0] == "-c":
        sys.argv, sys.path[0] = ["-c", *arguments[2:]], ""
        main = sys.modules["__main__"] = type(sys)("__main__")
        exec(compile(arguments[1], "<string>", "exec"), main.__dict__)
    elif arguments[0] == "-m":
        sys.argv, sys.path[0] = arguments[1:], os.getcwd()
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = arguments, os.path.dirname(os.path.abspath(arguments[0]))
        runpy.run_path(arguments[0], run_name="__main__")


def leave(arguments: list[str]) -> None:
    """Run the program and end as an interpreter does, less the second in which it unloads its modules."""
    import atexit

    status = 1
    try:
        run(arguments)
        status = 0
    except SystemExit as e:
        if isinstance(e.code, (int, type(None))):
            status = e.code or 0
        else:
            print(e.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 - whatever ends an interpreter
        sys.excepthook(*sys.exc_info())
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status & 0xFF)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        ask(sys.argv[1], sys.argv[2:])
    import gc

    import torchvision  # noqa: F401

    gc.freeze()  # the forks share its pages
    leave(serve(sys.argv[1]))
