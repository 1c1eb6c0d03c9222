"""The other end: runs code in a process of its own, where huggingface_hub reads its settings when it is imported.

Reads lines ``{"id", "env", "code"}`` and runs each in a thread, so that slow ones do not hold up the rest; the value of
``result`` in the code comes back as ``{"id", "result"}``, an exception as ``{"id", "error", "message"}``.
"""

from __future__ import annotations

import json
import sys
import threading
import traceback

lock = threading.Lock()


def run(id: int, code: str) -> None:
    scope: dict[str, object] = {}
    try:
        exec(code, scope)
        answer = {"result": scope.get("result")}
    except Exception as e:  # noqa: BLE001 - all of them are what the test is about
        kinds = [kind.__name__ for kind in type(e).__mro__]
        answer = {"error": kinds[0], "kinds": kinds, "message": str(e), "trace": traceback.format_exc()}
    with lock:
        print(json.dumps({"id": id, **answer}, default=str), flush=True)


if __name__ == "__main__":
    for line in sys.stdin:
        request = json.loads(line)
        threading.Thread(target=run, args=(request["id"], request["code"])).start()
