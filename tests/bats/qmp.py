#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sends one command to a QMP socket and prints what it returns; --job also waits for the job it starts."""

import json
import socket
import sys


class Qmp:
    def __init__(self, path):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(60)
        connection.connect(path)
        self.stream = connection.makefile("rw")
        self.stream.readline()
        self.execute("qmp_capabilities")

    def message(self):
        line = self.stream.readline()
        if not line:
            sys.exit("qmp: the connection was closed")
        return json.loads(line)

    def execute(self, command, arguments=None):
        request = {"execute": command}
        if arguments:
            request["arguments"] = arguments
        self.stream.write(json.dumps(request) + "\n")
        self.stream.flush()
        while True:
            message = self.message()
            if "error" in message:
                sys.exit(f"qmp: {command}: {message['error']['desc']}")
            if "return" in message:
                return message["return"]

    def wait_for_job(self, job):
        """Completes the job when it is ready, and dismisses it when it has ended."""
        completed = False
        while True:
            status = next((j for j in self.execute("query-jobs") if j["id"] == job), None)
            if status is None:
                return
            if status["status"] == "ready" and not completed:
                completed = True
                self.execute("job-complete", {"id": job})
            elif status["status"] == "concluded":
                self.execute("job-dismiss", {"id": job})
                if "error" in status:
                    sys.exit(f"qmp: job {job}: {status['error']}")
                return
            self.message()  # an event: something has moved


def main():
    arguments = sys.argv[1:]
    is_job = arguments[:1] == ["--job"]
    path, command, *rest = arguments[is_job:]
    values = json.loads(rest[0]) if rest else {}
    qmp = Qmp(path)

    if is_job:
        values.setdefault("job-id", "job0")
        values.setdefault("auto-dismiss", False)
    print(json.dumps(qmp.execute(command, values)))
    if is_job:
        qmp.wait_for_job(values["job-id"])


main()
