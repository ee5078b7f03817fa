"""Which URLs may be asked and which addresses may be connected to.

In: a URL that a stranger may have written, and what a name was resolved to. Out: the same in one
canonical form, or a ToolError that no retry can mend (`refusal`). Pure: nothing is resolved or
connected here. `envs.http` asks for every URL before it is resolved, for every answer of the name
service, and for every address in the moment of connecting, again after each redirect.

Refused: other schemes than http and https; user names; control, space and format characters; hosts
in an odd notation (octal, hexadecimal, decimal or short IPv4, IPv6 zones, percent signs, trailing
or foreign dots); names without a dot and private suffixes; ports of other protocols; everything
that is not the public internet, also inside an IPv6 address; names with one private address among
their addresses; hosts that the operator blocks.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from yarl import URL

from core.errors import ConfigError, ToolError

REFUSED = "refused: "
"""Begins the `error_type` of every refusal."""
MAX_URL_CHARS = 4096
PRIVATE_SUFFIXES = (
    *("localhost", "local", "localdomain", "internal", "intranet", "private", "corp", "home"),
    *("lan", "home.arpa", "onion"),
)
"""Names that mean something only inside some network."""
REFUSED_PORTS = frozenset(
    {
        # The ports that browsers refuse (Fetch standard, "port blocking") ...
        *(0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95),
        *(101, 102, 103, 104, 109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161),
        *(179, 389, 427, 465, 512, 513, 514, 515, 526, 530, 531, 532, 540, 548, 554, 556, 563),
        *(587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061),
        *(6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080),
        # ... and those of databases, caches and container engines.
        *(445, 1433, 1521, 2375, 2376, 2379, 3306, 3389, 5432, 5984, 6379, 8086, 9042, 9200, 9300),
        *(10250, 11211, 27017),
    }
)

_SPECIAL_V4 = tuple(
    ipaddress.IPv4Network(block)
    for block in (
        "0.0.0.0/8",  # this network, unspecified
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT; Alibaba's metadata 100.100.100.200
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's wire server: metadata on a public address
        "169.254.0.0/16",  # link-local, metadata 169.254.169.254
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata 192.0.0.192
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarking
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
"""All global unicast addresses; everything else is special: loopback, mapped and compatible IPv4,
NAT64 (64:ff9b::/96, 64:ff9b:1::/48), unique local, link-local, site-local, multicast."""
_SPECIAL_V6 = tuple(
    ipaddress.IPv6Network(block)
    for block in (
        "2001::/23",  # Teredo, benchmarking, ORCHID and other protocol assignments
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: holds an IPv4 address
        "3fff::/20",  # documentation
    )
)
_ISATAP = frozenset({0x0000_5EFE, 0x0200_5EFE})
"""The third quarter of an IPv6 address whose last quarter is an IPv4 address."""
_FOREIGN_DOTS = frozenset("\u3002\uff0e\uff61")
_ENDS_IN_NUMBER = re.compile(r"(?:^|\.)(?:[0-9]+|0[xX][0-9a-fA-F]*)$")
_ENTRY = re.compile(r"(?:\[((?=.*:)[0-9a-f:.]+)\]|([a-z0-9._-]+)):([0-9]{1,5})")
_NAME = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)+")


class NeverSentError(ToolError):
    """Refused before anything had left this machine."""


def refusal(reason: str, message: str) -> ToolError:
    """The request will not be made, or its response not be taken; counted by `reason`."""
    return ToolError(message, retryable=False, error_type=f"{REFUSED}{reason}")


def reason_of(error: ToolError) -> str:
    """Of a refusal."""
    return error.error_type.removeprefix(REFUSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """What one client may reach."""

    allow: frozenset[tuple[str, int]] = frozenset()
    """(host, port) of services that may be private; see `allowed`."""
    blocked_hosts: frozenset[str] = frozenset()
    """Lower case; each is refused together with all names below it."""
    may_connect: Callable[[str], bool] | None = None
    """Instead of `is_public`, for a client whose URLs all come from the operator: names and ports
    of any kind are then allowed."""

    def check_url(self, url: str) -> URL:
        """The URL as it will be asked. Raises ToolError."""
        if len(url) > MAX_URL_CHARS:
            raise refusal("url", f"a URL of {len(url)} characters, over {MAX_URL_CHARS}")
        if not url.isprintable() or re.search(r"[\s\\]", url):
            raise refusal("url", "the URL holds a space, a backslash or a control character")
        try:
            parsed = URL(url)
            port = parsed.port
        except ValueError as error:
            raise refusal("url", f"the URL is malformed: {error}"[:200]) from error
        if parsed.scheme not in ("http", "https"):
            raise refusal("scheme", f"only http and https are fetched, not {parsed.scheme[:20]!r}")
        host = parsed.raw_host
        if not host or port is None:
            raise refusal("url", "the URL has no host")
        if "@" in parsed.raw_authority or "@" in _authority(url):
            raise refusal("user", "the URL holds a user name")
        self._check_host(_written_host(url), host, port)
        return parsed.with_fragment(None)

    def check_answer(self, host: str, port: int, addresses: Sequence[str]) -> None:
        """Every address of a name must be allowed. Raises ToolError."""
        if (host, port) in self.allow:
            return
        for address in addresses:
            if not self.is_reachable(address):
                raise refusal("address", f"connections to {host} are refused: it is at {address}")

    def is_reachable(self, address: str) -> bool:
        """Whether any name at all may lead to `address`."""
        return is_public(address) if self.may_connect is None else self.may_connect(address)

    def _check_host(self, written: str, host: str, port: int) -> None:
        if is_blocked(host, self.blocked_hosts):
            raise refusal("blocked", f"{host[:100]} is a blocked host")
        if self.may_connect is not None or (host, port) in self.allow:
            return
        if port in REFUSED_PORTS:
            raise refusal("port", f"connections to port {port} are refused")
        address = _literal(written, host)
        if address is not None:
            if not is_public(address):
                raise refusal("address", f"connections to {address} are refused")
        elif _FOREIGN_DOTS & set(written) or not _NAME.fullmatch(host):
            raise refusal("notation", f"{host[:100]!r} is not a canonical host name")
        elif host.endswith(tuple(f".{suffix}" for suffix in PRIVATE_SUFFIXES)):
            raise refusal("address", f"connections to {host[:100]} are refused: a private name")


def allowed(entries: Iterable[str]) -> frozenset[tuple[str, int]]:
    """The operator's list of host:port. Raises ConfigError."""
    return frozenset(_allowed(entry) for entry in entries)


def is_blocked(host: str, blocked: Iterable[str]) -> bool:
    """Whether `host` is one of the blocked ones or lies below one."""
    return any(host == name or host.endswith(f".{name}") for name in blocked)


def is_public(address: str) -> bool:
    """True for addresses of the public internet; false for those that hold another inside."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return not any(ip in block for block in _SPECIAL_V4)
    if ip.scope_id is not None or ip not in _GLOBAL_V6 or any(ip in b for b in _SPECIAL_V6):
        return False
    return (int(ip) >> 32) & 0xFFFF_FFFF not in _ISATAP


def _literal(written: str, host: str) -> str | None:
    """The address that `host` is, None when it is a name. Raises ToolError for an odd notation."""
    odd = refusal("notation", f"{written[:100]!r} is not a canonical address")
    if ":" in host:
        if "%" in written or "%" in host:
            raise odd
        return host
    if not _ENDS_IN_NUMBER.search(host.rstrip(".")):
        return None
    try:
        canonical = str(ipaddress.IPv4Address(host))
    except ValueError as error:
        raise odd from error
    if written != canonical:
        raise odd
    return canonical


def _authority(url: str) -> str:
    return re.split(r"[/?#]", url.partition("://")[2], maxsplit=1)[0]


def _written_host(url: str) -> str:
    """As it stands in the URL, before any normalisation."""
    authority = _authority(url)
    if authority.startswith("["):
        return authority[1:].partition("]")[0]
    return authority.partition(":")[0]


def _allowed(entry: str) -> tuple[str, int]:
    match = _ENTRY.fullmatch(entry.lower())
    if match is None or not 0 < int(match[3]) < 65536:
        raise ConfigError(
            f"tools.guard.allow: {entry!r} must look like host:port, e.g. localhost:8888"
        )
    host = match[2] if match[1] is None else str(ipaddress.IPv6Address(match[1]))
    return host, int(match[3])
