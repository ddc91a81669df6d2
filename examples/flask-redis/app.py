"""The order handler that most articles about idempotency keys print, unchanged.

It has the faults that such handlers have; README.md beside this file names them. Do not mend
them here: the point is that `semel proxy` in front makes them harmless. Only the two functions
at the top are ours, so that a test can count what really happened.
"""

import os
import time
import uuid

import redis
from flask import Flask, jsonify, request

REDIS_HOST = os.environ.get("REDIS_HOST", "localhost")
REDIS_PORT = int(os.environ.get("REDIS_PORT", "6379"))
WORK_MS = int(os.environ.get("WORK_MS", "0"))

app = Flask(__name__)
redis_client = redis.StrictRedis(host=REDIS_HOST, port=REDIS_PORT, db=0)
counters = redis.StrictRedis(host=REDIS_HOST, port=REDIS_PORT, db=1)


def count_execution():
    """Count this run in a database of its own, as the handler's very first effect."""
    counters.incr(f"orders:{request.headers['Idempotency-Key']}")


def process_order(order):
    """Create the order: the effect that must happen once."""
    count_execution()
    time.sleep(WORK_MS / 1000)
    return {"order_id": str(uuid.uuid4()), "item": order["item"], "status": "created"}


@app.route("/orders", methods=["POST"])
def create_order():
    idempotency_key = request.headers.get("Idempotency-Key")
    if not idempotency_key:
        return jsonify({"error": "Idempotency-Key header is required"}), 400

    # Was this request processed before?
    cached_response = redis_client.get(idempotency_key)
    if cached_response:
        return jsonify(eval(cached_response)), 200

    # No: process the order and remember the response for an hour.
    response = process_order(request.json)
    redis_client.set(idempotency_key, str(response), ex=3600)
    return jsonify(response), 201


if __name__ == "__main__":
    app.run(debug=True)
