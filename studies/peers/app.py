"""The floor, which is a bare Flask app that asks Redis once, and ALTCHA's Python library in such an app, for ci/bench peers."""

import os
import secrets
import time

import altcha
import redis
from flask import Flask, Response, jsonify, request

app, store = Flask(__name__), redis.Redis.from_url(os.environ["REDIS_URL"])
SECRETS = {"hmac_secret": "of challenges", "hmac_key_secret": "of derived keys"}


@app.get("/bare")
def bare() -> Response:
    store.get("something")
    return jsonify(success=True)


@app.get("/challenge")
def challenge() -> Response:
    made = altcha.create_challenge(
        "PBKDF2/SHA-256", 5000, counter=secrets.randbelow(3), expires_at=int(time.time()) + 600, **SECRETS
    )
    return jsonify(made.to_dict())


@app.post("/redeem")
def redeem() -> tuple[Response, int]:
    payload = altcha.Payload.from_base64(request.get_json()["payload"])
    good = altcha.verify_solution(payload, SECRETS["hmac_secret"], hmac_key_secret=SECRETS["hmac_key_secret"]).verified
    # As the library's documentation says, the server sees to it that a solution is used once.
    good = good and bool(store.set(f"used:{payload.challenge.parameters.nonce}", 1, nx=True, ex=600))
    return jsonify(success=good), 200 if good else 403
