#!/usr/bin/env python3
"""Jobs for reeve from a program that knows RabbitMQ alone (pika; no library of reeve).

    reeve queue set work --backend amqp://localhost:5672 --ingress as=$USER
    ./jobs.py python train.py --lr 0.1              # prints the id; the job is in `reeve ls` a moment later
    ./jobs.py --id order-17 true                    # again with the same id and command: still one job
    ./jobs.py --wait sh -c 'echo 42 >$REEVE_RESULT' # prints every change of state, and the result

AMQP_URL names the server (default amqp://guest:guest@localhost:5672/%2f), QUEUE the queue (default work).
"""

import json
import os
import sys
import uuid

import pika

PLACE = "reeve:q:" + os.environ.get("QUEUE", "work") + ":in"
URL = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/%2f")
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
    connection = pika.BlockingConnection(pika.URLParameters(URL))
    channel = connection.channel()
    channel.confirm_delivery()
    # A queue of this connection alone: answers come here, and nothing is left of it afterwards.
    answers = channel.queue_declare("", exclusive=True).method.queue if wait else None
    properties = pika.BasicProperties(
        content_type="application/json",
        delivery_mode=2,
        message_id=name,
        reply_to=answers,
        correlation_id=name if wait else None,
    )
    try:
        channel.basic_publish("", PLACE, json.dumps({"command": words}).encode(), properties, mandatory=True)
        print(name, flush=True)
        ended = not wait or follow(channel, answers, name)
    except pika.exceptions.UnroutableError:
        sys.exit(f"there is no queue {PLACE} there: reeve queue set NAME --backend amqp://.. --ingress as=USER")
    finally:
        connection.close()
    sys.exit(0 if ended else 1)


def follow(channel, answers, name):
    """Prints what comes until the end. An answer may come twice: `seq` says which it is."""
    seen = set()
    for method, properties, body in channel.consume(answers, auto_ack=True):
        change = json.loads(body)
        if properties.correlation_id != name or change.get("seq") in seen:
            continue
        seen.add(change.get("seq"))
        print(change["state"], json.dumps(change.get("error") or change.get("result")), flush=True)
        if change["state"] in ENDS:
            return change["state"] == "COMPLETED"


if __name__ == "__main__":
    main()
