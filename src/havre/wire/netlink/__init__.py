"""Netlink: how a program asks the Linux kernel for links, addresses, routes and packet filters, without forking.

    message      the codec: requests out; messages and attributes in, bounded
    connection   one socket: a batch of requests in one datagram, every answer awaited; dumps
    netns        sockets and work inside another network namespace
    route        rtnetlink: links (veth), addresses, routes, neighbours
    nftables     nfnetlink: one table of packet filter rules, replaced as a whole

Everything here is synchronous: the kernel answers inside the call that asks. Callers on an event loop use a thread.

Source: linux/netlink.h, linux/rtnetlink.h, linux/if_link.h, linux/netfilter/nf_tables.h; RFC 3549.
"""
