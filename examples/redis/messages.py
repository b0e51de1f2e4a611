#!/usr/bin/env python3
"""Messages of a queue that reeve keeps at a Redis, with redis-py alone: no library of reeve.

    reeve queue set msgs --kind messages --backend redis://localhost:6379
    ./messages.py publish '{"image":"a.png"}'      # then: reeve queue receive msgs --ack --json
    reeve queue publish msgs '{"image":"b.png"}'
    ./messages.py consume                           # takes what lies there, one after the other

REDIS_URL names the server (default redis://localhost:6379), QUEUE the queue (default msgs).
"""

import json
import os
import sys
import uuid

import redis

STREAM = "reeve:q:" + os.environ.get("QUEUE", "msgs")
URL = os.environ.get("REDIS_URL", "redis://localhost:6379")


def publish(client, bodies):
    for body in bodies:
        json.loads(body)
        # The same id is the same message: publish again after a lost connection.
        client.xadd(STREAM, {"id": str(uuid.uuid4()), "kind": "json", "body": body})
        print("published", body)


def consume(client):
    """Bands of priority are streams of their own, the highest first. reeve's consumer group is shared with it."""
    for stream in (STREAM + ":high", STREAM, STREAM + ":low"):
        while True:
            found = client.xreadgroup("reeve", "messages.py", {stream: ">"}, count=1)
            if not found or not found[0][1]:
                break
            name, fields = found[0][1][0]
            print("took", fields[b"body"].decode())
            client.xack(stream, "reeve", name)
            client.xdel(stream, name)


def main():
    words = sys.argv[1:]
    if words[:1] not in (["publish"], ["consume"]):
        sys.exit(__doc__)
    client = redis.Redis.from_url(URL)
    publish(client, words[1:]) if words[0] == "publish" else consume(client)


if __name__ == "__main__":
    main()
