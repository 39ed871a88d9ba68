/* Services where they cost least: at the socket. A process that connects to a Service's address is connected to one
 * of its backends; no packet ever carries the Service's address, none is rewritten.
 *
 *   connect4, connect6     TCP, and UDP sockets that connect: the destination becomes a backend's, or the call fails
 *                          with ECONNREFUSED at once when there is none
 *   sendmsg4               UDP sockets that do not connect: the same, datagram by datagram; one socket keeps to one
 *                          backend as long as their number stays
 *   recvmsg4, recvmsg6     a datagram from a backend seems to come from the Service that it was sent to
 *   getpeername4, …6       and the peer of a socket is the Service
 *
 * The …6 programs serve sockets of IPv6 that speak to ::ffff:a.b.c.d, as those of many servers do. The kernel itself
 * calls sendmsg4 for these; sendmsg6 is attached only so that none is forgotten should that change.
 *
 * A connected UDP socket stays with its backend until it connects anew, as in Cilium's socket load balancer.
 */
#include "maps.h"

#define ECONNREFUSED 111
#define EPERM_UNLESS_SET 0
#define PROCEED 1
/* Sockets that are remembered, of each protocol; the longest unused goes first. What is forgotten shows the backend's
 * address: in the answers to a datagram (which come at once or never), in getpeername of TCP. */
#define SOCKETS 16384

struct peer_key {
	__u64 socket; /* cookie */
	__be32 ip;    /* of the backend */
	__be16 port;
	__u16 pad;
};
MAP(udp_peers, BPF_MAP_TYPE_LRU_HASH, struct peer_key, struct endpoint, SOCKETS, 0);
MAP(tcp_peers, BPF_MAP_TYPE_LRU_HASH, struct peer_key, struct endpoint, SOCKETS, 0);

/* Which of our protocols this socket speaks, or 0. */
static __always_inline __u8 protocol_of(const struct bpf_sock_addr *ctx)
{
	__u32 protocol = ctx->protocol;
	if (protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP)
		return IPPROTO_TCP;
	return protocol == IPPROTO_UDP ? IPPROTO_UDP : 0;
}

static __always_inline bool is_loopback(__be32 ip)
{
	return (ip & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
}

/* HOST or POD when Services are meant for this namespace, else 0. */
static __always_inline __u32 kind_of(__u64 cookie)
{
	__u32 *kind = bpf_map_lookup_elem(&namespaces, &cookie);
	if (kind)
		return *kind;
	__u64 others = 0;
	kind = bpf_map_lookup_elem(&namespaces, &others);
	return kind ? *kind : 0;
}

static __always_inline void remember_peer(__u8 protocol, __u64 socket, const struct endpoint *backend,
					  const struct endpoint *service)
{
	struct peer_key key = {.socket = socket, .ip = backend->ip, .port = backend->port};
	if (protocol == IPPROTO_UDP)
		bpf_map_update_elem(&udp_peers, &key, service, BPF_ANY);
	else
		bpf_map_update_elem(&tcp_peers, &key, service, BPF_ANY);
}

/* Turns a Service's address into a backend's. The lot of UDP is drawn by the socket: its datagrams belong together. */
static __always_inline enum verdict balance(struct bpf_sock_addr *ctx, struct endpoint *to)
{
	__u8 protocol = protocol_of(ctx);
	if (!protocol)
		return NO_FRONTEND;
	struct frontend_key key = {.ip = to->ip, .port = to->port, .protocol = protocol};
	if (!bpf_map_lookup_elem(&frontends, &key))
		return NO_FRONTEND;
	__u64 space = bpf_get_netns_cookie(ctx);
	__u32 kind = kind_of(space);
	if (!kind || (is_loopback(to->ip) && kind != HOST)) /* a pod's 127.0.0.1 is its own */
		return NO_FRONTEND;
	__u64 socket = bpf_get_socket_cookie(ctx);
	/* 2^32 / golden ratio: neighbouring cookies fall far apart */
	__u32 lot = protocol == IPPROTO_UDP ? ((__u32)socket * 2654435769U) >> 8 : bpf_get_prandom_u32();
	struct endpoint backend = {};
	enum verdict verdict = choose(&key, space, lot, &backend);
	if (verdict == CHOSEN) {
		remember_peer(protocol, socket, &backend, to);
		*to = backend;
	}
	return verdict;
}

static __always_inline int refuse(void)
{
	bpf_set_retval(-ECONNREFUSED);
	return EPERM_UNLESS_SET;
}

/* The Service that this socket knows the backend `from` as. */
static __always_inline bool translate_back(struct bpf_sock_addr *ctx, struct endpoint *from)
{
	struct peer_key key = {.socket = bpf_get_socket_cookie(ctx), .ip = from->ip, .port = from->port};
	struct endpoint *service = ctx->protocol == IPPROTO_UDP ? bpf_map_lookup_elem(&udp_peers, &key)
								 : bpf_map_lookup_elem(&tcp_peers, &key);
	if (!service)
		return false;
	*from = *service;
	return true;
}

static __always_inline int forward4(struct bpf_sock_addr *ctx)
{
	struct endpoint to = {.ip = ctx->user_ip4, .port = ctx->user_port};
	enum verdict verdict = balance(ctx, &to);
	if (verdict == NO_BACKEND)
		return refuse();
	if (verdict == CHOSEN) {
		ctx->user_ip4 = to.ip;
		ctx->user_port = to.port;
	}
	return PROCEED;
}

static __always_inline int back4(struct bpf_sock_addr *ctx)
{
	struct endpoint from = {.ip = ctx->user_ip4, .port = ctx->user_port};
	if (translate_back(ctx, &from)) {
		ctx->user_ip4 = from.ip;
		ctx->user_port = from.port;
	}
	return PROCEED;
}

/* An IPv4 address within an IPv6 one: ::ffff:a.b.c.d. */
static __always_inline bool is_mapped(const struct bpf_sock_addr *ctx)
{
	return !ctx->user_ip6[0] && !ctx->user_ip6[1] && ctx->user_ip6[2] == bpf_htonl(0xffff);
}

static __always_inline int forward6(struct bpf_sock_addr *ctx)
{
	if (!is_mapped(ctx))
		return PROCEED;
	struct endpoint to = {.ip = ctx->user_ip6[3], .port = ctx->user_port};
	enum verdict verdict = balance(ctx, &to);
	if (verdict == NO_BACKEND)
		return refuse();
	if (verdict == CHOSEN) {
		ctx->user_ip6[3] = to.ip;
		ctx->user_port = to.port;
	}
	return PROCEED;
}

static __always_inline int back6(struct bpf_sock_addr *ctx)
{
	if (!is_mapped(ctx))
		return PROCEED;
	struct endpoint from = {.ip = ctx->user_ip6[3], .port = ctx->user_port};
	if (translate_back(ctx, &from)) {
		ctx->user_ip6[3] = from.ip;
		ctx->user_port = from.port;
	}
	return PROCEED;
}

SEC("cgroup/connect4") int connect4(struct bpf_sock_addr *ctx) { return forward4(ctx); }
SEC("cgroup/connect6") int connect6(struct bpf_sock_addr *ctx) { return forward6(ctx); }
SEC("cgroup/sendmsg4") int sendmsg4(struct bpf_sock_addr *ctx) { return forward4(ctx); }
SEC("cgroup/sendmsg6") int sendmsg6(struct bpf_sock_addr *ctx) { return forward6(ctx); }
SEC("cgroup/recvmsg4") int recvmsg4(struct bpf_sock_addr *ctx) { return back4(ctx); }
SEC("cgroup/recvmsg6") int recvmsg6(struct bpf_sock_addr *ctx) { return back6(ctx); }
SEC("cgroup/getpeername4") int getpeername4(struct bpf_sock_addr *ctx) { return back4(ctx); }
SEC("cgroup/getpeername6") int getpeername6(struct bpf_sock_addr *ctx) { return back6(ctx); }
