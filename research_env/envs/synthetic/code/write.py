"""The artifact of a run: its settings."""

import json

import settings

values = {name: value for name, value in vars(settings).items() if name.isupper()}
with open("artifact/settings.json", "w") as file:
    json.dump(values, file)
