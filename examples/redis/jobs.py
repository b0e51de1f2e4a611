#!/usr/bin/env python3
"""Jobs for reeve from a program that knows Redis alone (redis-py; no library of reeve).

    reeve queue set work --backend redis://localhost:6379 --ingress as=$USER
    ./jobs.py python train.py --lr 0.1              # prints the id; the job is in `reeve ls` a moment later
    ./jobs.py --id order-17 true                    # again with the same id: still one job
    ./jobs.py --wait sh -c 'echo 42 >$REEVE_RESULT' # prints every change of state, and the result

REDIS_URL names the server (default redis://localhost:6379), QUEUE the queue (default work).
"""

import json
import os
import sys
import uuid

import redis

PLACE = "reeve:q:" + os.environ.get("QUEUE", "work") + ":in"
URL = os.environ.get("REDIS_URL", "redis://localhost:6379")
ENDS = ("COMPLETED", "FAILED", "CANCELLED", "REFUSED")


def main():
    words = sys.argv[1:]
    name, wait = str(uuid.uuid4()), False
    if words[:1] == ["--wait"]:
        wait, words = True, words[1:]
    if words[:1] == ["--id"] and len(words) > 1:
        name, words = words[1], words[2:]
    if not words:
        sys.exit(__doc__)
    client = redis.Redis.from_url(URL)
    fields = {"id": name, "body": json.dumps({"command": words})}
    # A stream of our own: answers come here.
    answers = "answers:" + str(uuid.uuid4())
    if wait:
        fields.update(reply_to=answers, correlation_id=name)
    client.xadd(PLACE, fields)
    print(name, flush=True)
    if wait:
        try:
            sys.exit(0 if follow(client, answers) else 1)
        finally:
            client.delete(answers)


def follow(client, answers):
    """Prints what comes until the end. An answer may come twice: `seq` says which it is."""
    last, seen = "0", set()
    while True:
        for _, entries in client.xread({answers: last}, block=1000) or []:
            for last, fields in entries:
                change = json.loads(fields[b"body"])
                if change.get("seq") in seen:
                    continue
                seen.add(change.get("seq"))
                print(change["state"], json.dumps(change.get("error") or change.get("result")), flush=True)
                if change["state"] in ENDS:
                    return change["state"] == "COMPLETED"


if __name__ == "__main__":
    main()
