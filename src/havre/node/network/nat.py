"""Outgoing traffic of pods: what leaves the machine gets the machine's address, since nobody outside knows the pods'.

One nftables table, named as the instance, with one rule:

    ip saddr <pods> ip daddr != <pods> ip daddr != <services> masquerade

Traffic between pods keeps its addresses; so does traffic to a Service's address, which the datapath handles. Tables of
others are not touched. A foreign base chain at the forward hook whose policy is drop (Docker, ufw, firewalld) drops our
pods' packets whatever we accept, because nftables asks every table: `obstacles` names such chains for `havre doctor`.

Source: linux/netfilter/nf_tables.h; nft(8).
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network

from havre.node.network.errors import NetworkError
from havre.wire.netlink import nftables
from havre.wire.netlink.message import NetlinkError
from havre.wire.netlink.nftables import NAT, POSTROUTING, SOURCE_NAT, Chain, Table


def table(instance: str, pods: IPv4Network, direct: Iterable[IPv4Network]) -> Table:
    """`direct` are the networks, besides the pods', that pods reach with their own address."""
    unchanged = [nftables.destination_not_in(network) for network in (pods, *direct)]
    masquerade = nftables.rule(nftables.source_in(pods), *unchanged, nftables.masquerade())
    return Table(instance, (Chain("outgoing", NAT, POSTROUTING, SOURCE_NAT, (masquerade,)),))


def install(instance: str, pods: IPv4Network, direct: Iterable[IPv4Network]) -> None:
    """Make the table, or make it as it should be. Blocks. Raises NetworkError."""
    try:
        with nftables.connect() as kernel:
            nftables.replace(kernel, table(instance, pods, direct))
    except (OSError, NetlinkError) as error:
        raise NetworkError(
            f"set up outgoing NAT of {pods} (nftables table {instance}): {error}; "
            "the kernel needs CONFIG_NF_TABLES and CONFIG_NFT_MASQ"
        ) from error


def remove(instance: str) -> None:
    """That there is none is fine. Blocks. Raises NetworkError."""
    try:
        with nftables.connect() as kernel:
            nftables.delete(kernel, instance)
    except (OSError, NetlinkError) as error:
        raise NetworkError(f"remove outgoing NAT (nftables table {instance}): {error}") from error


def obstacles(instance: str) -> list[str]:
    """Foreign chains that drop forwarded packets by policy, as "table/chain". Blocks. Raises NetworkError."""
    try:
        with nftables.connect() as kernel:
            return nftables.dropping(kernel, besides=instance)
    except (OSError, NetlinkError) as error:
        raise NetworkError(f"list nftables chains: {error}") from error
