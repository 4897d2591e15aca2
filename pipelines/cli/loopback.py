"""Keep requests to this machine off the user's proxy, by no_proxy: MLflow's client has no option.

Importing this file sets the variable. `pipelines/__init__.py` does so for every script, and the
processes that a script starts inherit it.
"""

import os
from collections.abc import Mapping

_HOSTS = ("localhost", "127.0.0.1", "::1")


def bypass_proxy(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that add this machine to no_proxy; none where no proxy is named."""
    proxies = ("http_proxy", "https_proxy", "all_proxy")
    if not any(environment.get(name) for name in _spellings(*proxies)):
        return {}
    spellings = _spellings("no_proxy")  # Python goes by the first that is set
    known = next((environment[name] for name in spellings if environment.get(name)), "")
    hosts = [host.strip() for host in known.split(",") if host.strip()]
    if "*" in hosts:
        return {}
    value = ",".join([*hosts, *(host for host in _HOSTS if host not in hosts)])
    return dict.fromkeys(spellings, value)


def _spellings(*lower: str) -> list[str]:
    return [spelt for name in lower for spelt in (name, name.upper())]


os.environ.update(bypass_proxy(os.environ))
