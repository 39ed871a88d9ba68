/* Packets: from pod to pod past the machine's own stack, and from outside to Services.
 *
 *   pod_ingress      what a pod sends, at the outer end of its veth pair: checked (its own address only), answers to
 *                    clients outside are given their Service's address back, packets to another pod go straight into
 *                    it, everything else goes on to the stack (the machine itself, and out through it)
 *   deliver          its last step, also a program of its own: a policy program in `stages` may run before it
 *   uplink_ingress   what arrives from outside for a node port, an external address, a host port: to a backend
 *   uplink_egress    answers of backends in the machine's own network namespace
 *
 * A client outside keeps its address: the pod sees who it is, and the answer is translated where the pod sends it
 * (direct, since this machine is the only node). Fragments and ICMP errors of translated flows are not translated.
 * IPv6 is off: dropped at the pod.
 */
#include "maps.h"

#define SYN_FRESH (60 * SECOND)  /* a client sends its SYN again after 1, 3, 7, 15, 31 s: to the same backend */
#define UDP_FRESH (180 * SECOND) /* as nf_conntrack_udp_timeout_stream: a silent flow is a new one after that */
#define HOST_PACKET 0            /* PACKET_HOST: meant for this machine's link address */

/* Flows from outside. A flow has two entries: how the client names it → the backend; how the backend names it → what
 * the client knows. 64 Ki: 32 Ki flows at a time, the longest unused goes first. */
#define TO_BACKEND 0
#define TO_CLIENT 1
struct flow_key {
	__be32 client;
	__be32 server;
	__be16 client_port;
	__be16 server_port;
	__u8 protocol;
	__u8 direction;
	__u16 pad;
};
struct flow {
	__be32 ip; /* what to put in place */
	__be16 port;
	__u16 pad;
	__u32 ifindex; /* the uplink where the client is */
	__u32 pad2;
	__u64 used; /* ns since boot */
};
MAP(flows, BPF_MAP_TYPE_LRU_HASH, struct flow_key, struct flow, 65536, 0);

/* Why packets were dropped. */
enum reason { SPOOFED, IPV6, MALFORMED, UNTRANSLATABLE, OUT_OF_RANGE, REASONS };
struct drops {
	__u64 packets;
	__u64 bytes;
};
MAP(dropped, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct drops, REASONS, 0);

/* Programs to go on with: a policy, when there is one, ends by calling `stages` at DELIVER. */
#define POLICY 0
#define DELIVER 1
MAP(stages, BPF_MAP_TYPE_PROG_ARRAY, __u32, __u32, 2, 0);

static __always_inline int drop(struct __sk_buff *skb, __u32 reason)
{
	struct drops *count = bpf_map_lookup_elem(&dropped, &reason);
	if (count) {
		count->packets++;
		count->bytes += skb->len;
	}
	return DROP;
}

/* Into the pod, past the machine's stack and the queue of the veth pair. */
static __always_inline int enter(struct __sk_buff *skb, const struct pod *pod)
{
	__u8 macs[2 * ETH_ALEN];
	__builtin_memcpy(macs, pod->mac, ETH_ALEN);
	if (bpf_skb_load_bytes(skb, 0, macs + ETH_ALEN, ETH_ALEN)) /* from whom it was sent to: the gateway */
		return DROP;
	if (bpf_skb_store_bytes(skb, 0, macs, sizeof macs, 0))
		return DROP;
	return bpf_redirect_peer(pod->ifindex, 0);
}

static __always_inline struct flow_key answer_key(const struct packet *packet)
{
	struct flow_key key = {
		.client = packet->destination, .server = packet->source,
		.client_port = packet->destination_port, .server_port = packet->source_port,
		.protocol = packet->protocol, .direction = TO_CLIENT,
	};
	return key;
}

/* Gives an answer its Service's address. */
static __always_inline bool answer(struct __sk_buff *skb, const struct packet *packet, struct flow *flow)
{
	struct endpoint service = {.ip = flow->ip, .port = flow->port};
	flow->used = bpf_ktime_get_ns();
	return rewrite_source(skb, packet, &service);
}

static __always_inline int deliver_packet(struct __sk_buff *skb)
{
	struct packet packet = {};
	if (!parse(skb, &packet))
		return drop(skb, MALFORMED);
	struct pod *pod = bpf_map_lookup_elem(&pods, &packet.destination);
	if (pod)
		return enter(skb, pod);
	if (!packet.l4)
		return NEXT;
	struct flow_key key = answer_key(&packet);
	struct flow *flow = bpf_map_lookup_elem(&flows, &key);
	if (!flow)
		return NEXT;
	__u32 uplink = flow->ifindex;
	if (!answer(skb, &packet, flow))
		return drop(skb, UNTRANSLATABLE);
	return bpf_redirect_neigh(uplink, NULL, 0, 0); /* the stack would refuse a packet from its own address */
}

SEC("tc") int deliver(struct __sk_buff *skb) { return deliver_packet(skb); }

/* Whether the pod behind this interface owns `ip`. */
static __always_inline bool owns(struct __sk_buff *skb, __be32 ip)
{
	struct pod *pod = bpf_map_lookup_elem(&pods, &ip);
	return pod && pod->ifindex == skb->ifindex;
}

struct arp_ipv4 {
	__u8 head[8]; /* hardware and protocol, their address lengths, operation */
	__u8 sender_mac[ETH_ALEN];
	__be32 sender;
	__u8 target_mac[ETH_ALEN];
	__be32 target;
} __attribute__((packed));

static __always_inline int arp(struct __sk_buff *skb)
{
	struct arp_ipv4 arp;
	if (bpf_skb_load_bytes(skb, ETH_HLEN, &arp, sizeof arp))
		return drop(skb, MALFORMED);
	return !arp.sender || owns(skb, arp.sender) ? NEXT : drop(skb, SPOOFED); /* 0.0.0.0 asks whether it is free */
}

SEC("tc") int pod_ingress(struct __sk_buff *skb)
{
	if (skb->protocol == bpf_htons(ETH_P_ARP))
		return arp(skb);
	if (skb->protocol != bpf_htons(ETH_P_IP))
		return drop(skb, IPV6);
	__be32 source;
	if (bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct iphdr, saddr), &source, sizeof source))
		return drop(skb, MALFORMED);
	if (!owns(skb, source))
		return drop(skb, SPOOFED);
	bpf_tail_call(skb, &stages, POLICY);
	return deliver_packet(skb);
}

/* From outside */

static __always_inline struct flow_key question_key(const struct packet *packet)
{
	struct flow_key key = {
		.client = packet->source, .server = packet->destination,
		.client_port = packet->source_port, .server_port = packet->destination_port,
		.protocol = packet->protocol, .direction = TO_BACKEND,
	};
	return key;
}

static __always_inline void begin(struct __sk_buff *skb, const struct packet *packet, const struct flow_key *key,
				  const struct endpoint *backend)
{
	__u64 now = bpf_ktime_get_ns();
	struct flow there = {.ip = backend->ip, .port = backend->port, .ifindex = skb->ifindex, .used = now};
	struct flow back = {.ip = packet->destination, .port = packet->destination_port, .ifindex = skb->ifindex, .used = now};
	struct flow_key answers = {
		.client = packet->source, .server = backend->ip,
		.client_port = packet->source_port, .server_port = backend->port,
		.protocol = packet->protocol, .direction = TO_CLIENT,
	};
	bpf_map_update_elem(&flows, &answers, &back, BPF_ANY);
	bpf_map_update_elem(&flows, key, &there, BPF_ANY);
}

/* Whether a packet may still go where its flow went. An open TCP connection may, even when its backend has left the
 * Service: it is on its way out. A SYN or a datagram may if that is recent and the backend is still one: what would
 * follow is a new conversation. */
static __always_inline bool goes_on(const struct packet *packet, const struct flow *flow)
{
	if (packet->protocol == IPPROTO_TCP && !packet->opens)
		return true;
	__u64 fresh = packet->protocol == IPPROTO_TCP ? SYN_FRESH : UDP_FRESH;
	if (bpf_ktime_get_ns() - flow->used > fresh)
		return false;
	struct frontend_key key = {
		.ip = packet->destination, .port = packet->destination_port, .protocol = packet->protocol};
	struct frontend *frontend = bpf_map_lookup_elem(&frontends, &key);
	struct endpoint backend = {.ip = flow->ip, .port = flow->port};
	return frontend && is_member(frontend->set, &backend) &&
	       (!(frontend->flags & RANGED) || in_range(frontend, packet->source));
}

/* The backend of a packet that begins a flow; false if it has none, then `otherwise` is what becomes of the packet. */
static __always_inline bool first(struct __sk_buff *skb, const struct packet *packet, const struct flow_key *question,
				  struct endpoint *backend, int *otherwise)
{
	*otherwise = NEXT; /* also without a backend: nobody listens there, so the stack refuses */
	if (packet->protocol == IPPROTO_TCP && !packet->opens)
		return false;
	struct frontend_key key = {
		.ip = packet->destination, .port = packet->destination_port, .protocol = packet->protocol};
	struct frontend *frontend = bpf_map_lookup_elem(&frontends, &key);
	if (!frontend || !(frontend->flags & EXTERNAL))
		return false;
	if (frontend->flags & RANGED && !in_range(frontend, packet->source)) {
		*otherwise = drop(skb, OUT_OF_RANGE);
		return false;
	}
	__u64 client = OUTSIDE | packet->source;
	if (choose(&key, client, bpf_get_prandom_u32(), backend) != CHOSEN)
		return false;
	begin(skb, packet, question, backend);
	return true;
}

SEC("tc") int uplink_ingress(struct __sk_buff *skb)
{
	struct packet packet = {};
	if (skb->protocol != bpf_htons(ETH_P_IP) || skb->pkt_type != HOST_PACKET || !parse(skb, &packet) || !packet.l4)
		return NEXT;
	struct flow_key key = question_key(&packet);
	struct flow *flow = bpf_map_lookup_elem(&flows, &key);
	struct endpoint backend = {};
	if (flow && goes_on(&packet, flow)) {
		backend.ip = flow->ip;
		backend.port = flow->port;
		flow->used = bpf_ktime_get_ns();
	} else {
		int otherwise;
		if (!first(skb, &packet, &key, &backend, &otherwise))
			return otherwise;
	}
	if (!rewrite_destination(skb, &packet, &backend))
		return drop(skb, UNTRANSLATABLE);
	struct pod *pod = bpf_map_lookup_elem(&pods, &backend.ip);
	return pod ? enter(skb, pod) : NEXT;
}

SEC("tc") int uplink_egress(struct __sk_buff *skb)
{
	struct packet packet = {};
	if (skb->protocol != bpf_htons(ETH_P_IP) || !parse(skb, &packet) || !packet.l4)
		return NEXT;
	struct flow_key key = answer_key(&packet);
	struct flow *flow = bpf_map_lookup_elem(&flows, &key);
	if (!flow)
		return NEXT;
	return answer(skb, &packet, flow) ? NEXT : drop(skb, UNTRANSLATABLE);
}
