"""The scripted server of the API engine's tests, for the tests beside this."""

import importlib.util
from pathlib import Path

_SPEC = importlib.util.spec_from_file_location(
    "scripted_server", Path(__file__).parents[1] / "inference" / "api" / "test_client.py"
)
_CLIENT = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_CLIENT)

serve, text, message, Sent = _CLIENT.serve, _CLIENT.text, _CLIENT.message, _CLIENT.Sent
