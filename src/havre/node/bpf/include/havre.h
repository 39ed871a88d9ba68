/* What every program includes: the stable headers of the kernel, so that one object runs on every kernel. */
#pragma once
#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* No helper that we call is reserved to GPL programs. */
char LICENSE[] SEC("license") = "Apache-2.0";

#define MAP(NAME, TYPE, KEY, VALUE, ENTRIES, FLAGS) \
	struct {                                    \
		__uint(type, TYPE);                 \
		__type(key, KEY);                   \
		__type(value, VALUE);               \
		__uint(max_entries, ENTRIES);       \
		__uint(map_flags, FLAGS);           \
	} NAME SEC(".maps")
