"""Whatever a handler may do, asked for by the job."""

import os
import signal
import subprocess
import sys
import time

import runpod


def handler(job):
    given = job["input"]
    do = given["do"]
    if do == "nothing":
        return None
    if do == "empty":
        return {}
    if do == "error":
        return {"error": {"code": 7, "text": "no luck"}}
    if do == "large":
        return "x" * (30 << 20)
    if do == "garbage":
        os.write(1, b"\xff\xfe{]\x00 no line end")
        return "printed"
    if do == "progress":
        runpod.serverless.progress_update(job, "half")
        time.sleep(2)
        return "whole"
    if do == "fork":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
        return child.pid
    if do == "exit":
        os._exit(given["code"])
    if do == "leave":
        sys.exit(0)
    if do == "block":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(given["s"])
        return "late"
    if do == "spin":
        while not os.path.exists(given["until"]):
            pass
        return "found"
    if do == "refresh":
        return {"refresh_worker": True, "pid": os.getpid()}
    if do == "log":
        runpod.serverless.log.info("a line of its own", job["id"])
        return os.getpid()
    return {"pid": os.getpid(), "given": given}


runpod.serverless.start({"handler": handler})
