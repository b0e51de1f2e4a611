#!/usr/bin/env python3
"""Messages of a queue that reeve keeps at a RabbitMQ, with pika alone: no library of reeve.

    reeve queue set msgs --kind messages --backend amqp://localhost:5672
    ./messages.py publish '{"image":"a.png"}'      # then: reeve queue receive msgs --ack --json
    reeve queue publish msgs '{"image":"b.png"}'
    ./messages.py consume                           # takes what lies there, one after the other

AMQP_URL names the server (default amqp://guest:guest@localhost:5672/%2f), QUEUE the queue (default msgs).
"""

import json
import os
import sys
import uuid

import pika

QUEUE = "reeve:q:" + os.environ.get("QUEUE", "msgs")
URL = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/%2f")


def publish(channel, bodies):
    """Each is on the server's disk once basic_publish returns: confirmed, mandatory, persistent."""
    channel.confirm_delivery()
    for body in bodies:
        json.loads(body)
        properties = pika.BasicProperties(
            content_type="application/json",
            delivery_mode=2,
            # The same id with the same body is the same message: publish again after a lost connection.
            message_id=str(uuid.uuid4()),
            headers={"from": "messages.py"},
        )
        channel.basic_publish("", QUEUE, body.encode(), properties, mandatory=True)
        print("published", body)


def consume(channel):
    """Bands of priority are queues of their own, the highest first."""
    for name in (QUEUE + ":high", QUEUE, QUEUE + ":low"):
        while True:
            method, properties, body = channel.basic_get(name)
            if method is None:
                break
            print("took", properties.content_type, dict(properties.headers or {}), body.decode())
            channel.basic_ack(method.delivery_tag)


def main():
    words = sys.argv[1:]
    if words[:1] not in (["publish"], ["consume"]):
        sys.exit(__doc__)
    connection = pika.BlockingConnection(pika.URLParameters(URL))
    channel = connection.channel()
    try:
        publish(channel, words[1:]) if words[0] == "publish" else consume(channel)
    except pika.exceptions.UnroutableError:
        sys.exit(f"there is no queue {QUEUE} at {URL.rsplit('@')[-1]}: reeve queue set NAME --kind messages --backend amqp://..")
    finally:
        connection.close()


if __name__ == "__main__":
    main()
