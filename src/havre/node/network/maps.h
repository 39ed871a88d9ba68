/* The maps of the network, and how a backend is chosen. Each struct has its Layout of the same name in layouts.py;
 * members named pad are padding, zero in keys. */
#pragma once
#include <stdbool.h>
#include "../bpf/include/packet.h"

/* Pods: where a packet to an address of this node goes. A pod CIDR is a /16 at most: 65,533 pods. */
struct pod {
	__u64 cookie;  /* of its network namespace; 0: not known */
	__u32 ifindex; /* of the end of the veth pair outside of the pod */
	__u8 mac[6];   /* of the end inside */
	__u8 pad[6];
};
MAP(pods, BPF_MAP_TYPE_HASH, __be32, struct pod, 65536, BPF_F_NO_PREALLOC);

/* Network namespaces whose sockets reach Services, by cookie: this machine's own and the pods'. Key 0 stands for all
 * others, and is there only while a pod's cookie is not known. */
#define HOST 1
#define POD 2
MAP(namespaces, BPF_MAP_TYPE_HASH, __u64, __u32, 65536, BPF_F_NO_PREALLOC);

/* Where clients connect to. 64 Ki: 10,000 Services × 3 ports or addresses = 30,000, next power of two, twice. */
#define EXTERNAL 1 /* reachable from outside of the machine, too */
#define RANGED 2   /* … by clients in one of `ranges` */
struct frontend_key {
	__be32 ip;
	__be16 port;
	__u8 protocol;
	__u8 pad;
};
struct frontend {
	__u32 set;      /* the backends: slots 0 … size-1 of this set, which never change */
	__u16 size;     /* 0: connections are refused */
	__u16 flags;
	__u32 timeout;  /* seconds that a client stays with its backend; 0: every connection is by lot */
	__u32 pad;
	__u64 service;  /* whose clients stay: the same for all frontends of a Service's port */
};
MAP(frontends, BPF_MAP_TYPE_HASH, struct frontend_key, struct frontend, 65536, BPF_F_NO_PREALLOC);

/* Backends, by set and slot; and whether an address is in a set. 128 Ki: 64 Ki sets × 2 backends. */
struct slot_key {
	__u32 set;
	__u32 slot;
};
MAP(backends, BPF_MAP_TYPE_HASH, struct slot_key, struct endpoint, 131072, BPF_F_NO_PREALLOC);
struct member_key {
	__u32 set;
	__be32 ip;
	__be16 port;
	__u16 pad;
};
MAP(members, BPF_MAP_TYPE_HASH, struct member_key, __u32, 131072, BPF_F_NO_PREALLOC);

/* sessionAffinity: the backend that a client had last. The client is a network namespace (its cookie) or an address
 * outside (with the highest bit, which cookies do not reach). The longest unused goes first when 16 Ki are known. */
#define OUTSIDE (1ULL << 63)
struct affinity_key {
	__u64 client;
	__u64 service;
};
struct affinity {
	__be32 ip;
	__be16 port;
	__u16 pad;
	__u64 used; /* ns since boot */
};
MAP(affinities, BPF_MAP_TYPE_LRU_HASH, struct affinity_key, struct affinity, 16384, 0);

/* loadBalancerSourceRanges: networks of clients, behind the number of the Service's port. `prefix` counts both: 64 bits
 * and those of the network. */
struct range_key {
	__u32 prefix;
	__u8 service[8];
	__be32 ip;
};
MAP(ranges, BPF_MAP_TYPE_LPM_TRIE, struct range_key, __u32, 16384, BPF_F_NO_PREALLOC);

static __always_inline bool in_range(const struct frontend *frontend, __be32 client)
{
	struct range_key key = {.prefix = 96, .ip = client};
	__builtin_memcpy(key.service, &frontend->service, sizeof key.service);
	return bpf_map_lookup_elem(&ranges, &key);
}

#define SECOND 1000000000ULL

static __always_inline bool is_member(__u32 set, const struct endpoint *backend)
{
	struct member_key key = {.set = set, .ip = backend->ip, .port = backend->port};
	return bpf_map_lookup_elem(&members, &key);
}

/* The backend of an earlier connection, if the client shall stay with it. */
static __always_inline bool stay(const struct frontend *frontend, __u64 client, struct endpoint *backend)
{
	struct affinity_key key = {.client = client, .service = frontend->service};
	struct affinity *last = bpf_map_lookup_elem(&affinities, &key);
	__u64 now = bpf_ktime_get_ns();
	if (!last || now - last->used > frontend->timeout * SECOND)
		return false;
	struct endpoint known = {.ip = last->ip, .port = last->port};
	if (!is_member(frontend->set, &known))
		return false;
	last->used = now;
	*backend = known;
	return true;
}

static __always_inline void remember(const struct frontend *frontend, __u64 client, const struct endpoint *backend)
{
	struct affinity_key key = {.client = client, .service = frontend->service};
	struct affinity last = {.ip = backend->ip, .port = backend->port, .used = bpf_ktime_get_ns()};
	bpf_map_update_elem(&affinities, &key, &last, BPF_ANY);
}

enum verdict { NO_FRONTEND, NO_BACKEND, CHOSEN };

/* A backend for `client`, by `lot`. Sets never change, frontends move from set to set: when the slot is gone the
 * frontend has moved between the two lookups, and is read again. Three moves within one call do not happen: a move
 * is two system calls. */
static __always_inline enum verdict choose(const struct frontend_key *key, __u64 client, __u32 lot,
					   struct endpoint *backend)
{
#pragma unroll
	for (int i = 0; i < 3; i++) {
		struct frontend *frontend = bpf_map_lookup_elem(&frontends, key);
		if (!frontend)
			return NO_FRONTEND;
		__u32 size = frontend->size;
		if (!size)
			return NO_BACKEND;
		if (frontend->timeout && stay(frontend, client, backend))
			return CHOSEN;
		struct slot_key slot = {.set = frontend->set, .slot = lot % size};
		struct endpoint *found = bpf_map_lookup_elem(&backends, &slot);
		if (!found)
			continue;
		*backend = *found;
		if (frontend->timeout)
			remember(frontend, client, backend);
		return CHOSEN;
	}
	return NO_BACKEND;
}
