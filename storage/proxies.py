"""HTTP proxies of the environment (http_proxy, https_proxy, no_proxy), as boto reads them.

A company's proxy does not know this machine's own addresses, so a server on loopback is asked
directly, whatever the environment says.
"""

from ipaddress import ip_address
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass


def is_loopback(url: str) -> bool:
    """Whether a URL names this machine by `localhost` or a loopback address."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:  # the name of another host
        return False


def proxy_of(url: str) -> str | None:
    """HOST:PORT of the proxy that requests to a URL go through, without its login; None if none."""
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
    if not proxy or not parts.hostname or is_loopback(url) or proxy_bypass(parts.netloc):
        return None
    return urlsplit(proxy if "://" in proxy else f"//{proxy}").netloc.rpartition("@")[2]


def proxy_hint(url: str) -> str:
    """Name the proxy between here and a URL, and how to bypass it; empty if there is no proxy."""
    proxy = proxy_of(url)
    if proxy is None:
        return ""
    parts = urlsplit(url)
    return (
        f"requests go through the proxy {proxy} ({parts.scheme}_proxy): if"
        f" {parts.hostname} needs none, add it to no_proxy"
    )
