/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
#ifndef VK_TABLES_H
#define VK_TABLES_H
/* vk_tables.h: the maps that classify and select both have, and what is done with them: counting
 * and policing. vk_maps.h has their meaning.
 */
#include "vk_parse.h"

#define VK_UNLIKELY(condition) __builtin_expect(!!(condition), 0)

struct vk_lane vk_lanes[VK_LANES_MAX] SEC(".data.vk_lanes");
struct vk_police vk_source SEC(".data.vk_source");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_PERCPU_HASH);
	__uint(max_entries, VK_SOURCES_MAX);
	__type(key, struct vk_source_key);
	__type(value, struct vk_bucket);
} vk_sources SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, VK_CLASS_COUNT *VK_VERDICT_COUNT);
	__type(key, __u32);
	__type(value, struct vk_count);
} vk_counts SEC(".maps");

/* vk_count_row returns this CPU's counters of a class and verdict. */
static __always_inline struct vk_count *vk_count_row(uint32_t class, uint32_t verdict)
{
	uint32_t key = class * VK_VERDICT_COUNT + verdict;

	return bpf_map_lookup_elem(&vk_counts, &key);
}

/* vk_count_add counts packets of a class under a verdict. */
static __always_inline void vk_count_add(uint32_t class, uint32_t verdict, uint64_t packets,
					 uint64_t bytes, uint64_t more)
{
	struct vk_count *row = vk_count_row(class, verdict);

	if (!row)
		return;
	row->packets += packets;
	row->bytes += bytes;
	row->more += more;
}

/* vk_bucket_tokens returns what a bucket holds: a burst lowered under way counts at once. */
static __always_inline uint64_t vk_bucket_tokens(const struct vk_police *police,
						 const struct vk_bucket *bucket)
{
	uint64_t cap = *(volatile const uint64_t *)&police->burst << VK_TOKEN_SHIFT;
	uint64_t tokens = bucket->tokens;

	return tokens < cap ? tokens : cap;
}

/* vk_bucket_take takes tokens for packets out of a bucket, or returns 0 when it has too few. A new
 * bucket is full; only one that is short reads the clock. A batch above the burst is charged the
 * burst, or it could never pass. */
static __always_inline int vk_bucket_take(const struct vk_police *police, struct vk_bucket *bucket,
					  uint64_t packets)
{
	uint64_t rate = *(volatile const uint64_t *)&police->rate;
	uint64_t cap = *(volatile const uint64_t *)&police->burst << VK_TOKEN_SHIFT;
	uint64_t need = packets << VK_TOKEN_SHIFT;
	uint64_t tokens = vk_bucket_tokens(police, bucket);

	if (!rate)
		return 1;
	if (need > cap && cap)
		need = cap;
	if (tokens < need) {
		uint64_t now = bpf_ktime_get_ns();
		__s64 elapsed = now - bucket->last_ns;

		if (elapsed > VK_REFILL_NS_MAX)
			elapsed = VK_REFILL_NS_MAX;
		if (elapsed > 0)
			tokens += elapsed * rate;
		if (tokens > cap || !bucket->last_ns)
			tokens = cap;
		bucket->last_ns = now;
	}
	if (tokens < need) {
		bucket->tokens = tokens;
		return 0;
	}
	bucket->tokens = tokens - need;
	return 1;
}

/* vk_source_ip4 is the key of an IPv4 address. */
static __always_inline struct vk_source_key vk_source_ip4(__be32 address)
{
	return (struct vk_source_key){ { 0, 0, bpf_htonl(0xffff), address } };
}

/* vk_source_limited says whether sources are policed at all. */
static __always_inline int vk_source_limited(void)
{
	return *(volatile const uint64_t *)&vk_source.rate != 0;
}

/* vk_police_source says whether an address's bucket on this CPU has tokens; a new address begins
 * with a full bucket. When the table takes no more, packets go on to the class's bucket. */
static __always_inline int vk_police_source(const struct vk_source_key *source, uint64_t packets)
{
	struct vk_bucket *bucket = bpf_map_lookup_elem(&vk_sources, source);

	if (!bucket) {
		struct vk_bucket empty = {};

		bpf_map_update_elem(&vk_sources, source, &empty, BPF_NOEXIST);
		bucket = bpf_map_lookup_elem(&vk_sources, source);
	}
	return !bucket || vk_bucket_take(&vk_source, bucket, packets);
}
#endif
