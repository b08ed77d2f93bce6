"""paho's client, imported without what it brings for proxies and web sockets, which no node of IPDC uses.

paho imports urllib.request, and with it http.client and email, and urllib.parse with ipaddress: 2 MB of a daemon that
idles. It looks into them for a web socket, and where PySocks is installed to take a proxy from the environment. Here
they are absent for it; whoever imports them later gets the real ones.
"""

from __future__ import annotations

import sys
from types import ModuleType

_HIDDEN = {name: ModuleType(name) for name in ("urllib.parse", "urllib.request")} | {"socks": None}  # None: not there
_before = {name: sys.modules[name] for name in _HIDDEN if name in sys.modules}
sys.modules.update({name: module for name, module in _HIDDEN.items() if name not in _before})  # type: ignore[misc]
try:
    from paho.mqtt import client
finally:
    for _name in _HIDDEN.keys() - _before.keys():
        del sys.modules[_name]
client.socks = None  # where somebody had imported it before

__all__ = ["client"]
