"""The engine that asks a server over HTTP: `Api(config.api)`.

client.py is the engine, endpoint.py one attempt, wire.py the two protocols as plain data, pace.py
when the next attempt may go, structured.py JSON that follows a schema.
"""

from sbp_jax.inference.api.client import Api

__all__ = ["Api"]
