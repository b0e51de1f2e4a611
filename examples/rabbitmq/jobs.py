#!/usr/bin/env python3
"""Jobs for reeve from a program that knows RabbitMQ alone (pika; no library of reeve).

    reeve queue set work --backend amqp://localhost:5672 --ingress as=$USER
    ./jobs.py python train.py --lr 0.1              # prints the id; the job is in `reeve ls` a moment later
    ./jobs.py --id order-17 true                    # again with the same id and command: still one job

AMQP_URL names the server (default amqp://guest:guest@localhost:5672/%2f), QUEUE the queue (default work).
"""

import json
import os
import sys
import uuid

import pika

PLACE = "reeve:q:" + os.environ.get("QUEUE", "work") + ":in"
URL = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/%2f")


def main():
    words = sys.argv[1:]
    name = str(uuid.uuid4())
    if words[:1] == ["--id"] and len(words) > 1:
        name, words = words[1], words[2:]
    if not words:
        sys.exit(__doc__)
    connection = pika.BlockingConnection(pika.URLParameters(URL))
    channel = connection.channel()
    channel.confirm_delivery()
    properties = pika.BasicProperties(content_type="application/json", delivery_mode=2, message_id=name)
    try:
        channel.basic_publish("", PLACE, json.dumps({"command": words}).encode(), properties, mandatory=True)
    except pika.exceptions.UnroutableError:
        sys.exit(f"there is no queue {PLACE} there: reeve queue set NAME --backend amqp://.. --ingress as=USER")
    finally:
        connection.close()
    print(name)


if __name__ == "__main__":
    main()
