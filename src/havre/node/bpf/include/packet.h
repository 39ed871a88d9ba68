/* Reading and rewriting the headers of a packet: Ethernet, IPv4, TCP and UDP. */
#pragma once
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <stdbool.h>
#include <stddef.h>
#include "havre.h"

#define NEXT TC_ACT_UNSPEC /* the programs after us, then the stack */
#define DROP TC_ACT_SHOT
#define FRAGMENT 0x3fff /* more fragments to come, or an offset: the ports are not in every part */
#define L4_MOST (ETH_HLEN + 60) /* where the ports are behind the longest options of IPv4 */

struct endpoint {
	__be32 ip;
	__be16 port;
	__u16 pad;
};

struct packet {
	__be32 source, destination;
	__be16 source_port, destination_port;
	__u32 l4;      /* offset of the TCP or UDP header; 0 when there are no ports to read */
	__u8 protocol;
	bool opens;    /* a TCP packet that asks for a connection: SYN without ACK */
};

/* Makes `size` bytes readable at skb->data: they usually are, else they are pulled together. */
static __always_inline bool readable(struct __sk_buff *skb, __u32 size)
{
	if (skb->data + size <= skb->data_end)
		return true;
	return !bpf_skb_pull_data(skb, size) && skb->data + size <= skb->data_end;
}

/* Reads the headers; false if this is no whole IPv4 header. */
static __always_inline bool parse(struct __sk_buff *skb, struct packet *packet)
{
	if (!readable(skb, ETH_HLEN + sizeof(struct iphdr)))
		return false;
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct iphdr *ip = data + ETH_HLEN;
	if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5)
		return false;
	packet->source = ip->saddr;
	packet->destination = ip->daddr;
	packet->protocol = ip->protocol;
	packet->l4 = 0;
	packet->opens = false;
	if (ip->frag_off & bpf_htons(FRAGMENT))
		return true;
	__u32 l4 = ETH_HLEN + ip->ihl * 4;
	if (packet->protocol == IPPROTO_TCP) {
		struct tcphdr tcp;
		if (bpf_skb_load_bytes(skb, l4, &tcp, sizeof tcp))
			return true;
		packet->opens = tcp.syn && !tcp.ack;
		packet->source_port = tcp.source;
		packet->destination_port = tcp.dest;
		packet->l4 = l4;
	} else if (packet->protocol == IPPROTO_UDP) {
		struct udphdr udp;
		if (bpf_skb_load_bytes(skb, l4, &udp, sizeof udp))
			return true;
		packet->source_port = udp.source;
		packet->destination_port = udp.dest;
		packet->l4 = l4;
	}
	return true;
}

/* One address and one port of the packet become others, and both checksums stay right. A UDP checksum of zero means
 * that there is none, and stays. */
static __always_inline bool rewrite(struct __sk_buff *skb, const struct packet *packet, __u32 ip_at, __u32 port_at,
				    __be32 old_ip, __be16 old_port, const struct endpoint *to)
{
	bool udp = packet->protocol == IPPROTO_UDP;
	__u32 check = packet->l4 + (udp ? offsetof(struct udphdr, check) : offsetof(struct tcphdr, check));
	__u64 flags = udp ? BPF_F_MARK_MANGLED_0 : 0;
	__be32 ip = to->ip;
	__be16 port = to->port;
	return !bpf_l4_csum_replace(skb, check, old_ip, ip, BPF_F_PSEUDO_HDR | flags | sizeof ip) &&
	       !bpf_l4_csum_replace(skb, check, old_port, port, flags | sizeof port) &&
	       !bpf_l3_csum_replace(skb, ETH_HLEN + offsetof(struct iphdr, check), old_ip, ip, sizeof ip) &&
	       !bpf_skb_store_bytes(skb, ip_at, &ip, sizeof ip, 0) &&
	       !bpf_skb_store_bytes(skb, packet->l4 + port_at, &port, sizeof port, 0);
}

static __always_inline bool rewrite_destination(struct __sk_buff *skb, const struct packet *packet,
						const struct endpoint *to)
{
	return rewrite(skb, packet, ETH_HLEN + offsetof(struct iphdr, daddr), offsetof(struct tcphdr, dest),
		       packet->destination, packet->destination_port, to);
}

static __always_inline bool rewrite_source(struct __sk_buff *skb, const struct packet *packet,
					   const struct endpoint *to)
{
	return rewrite(skb, packet, ETH_HLEN + offsetof(struct iphdr, saddr), offsetof(struct tcphdr, source),
		       packet->source, packet->source_port, to);
}
