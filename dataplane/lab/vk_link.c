/* SPDX-License-Identifier: MIT */
#include "vk_link.h"

enum { PS_PER_NS = 1000 };

/* What a byte costs at a rate: picoseconds, fixed point 2^-16. */
static uint64_t byte_cost(uint64_t rate_bps)
{
	const uint64_t ps_per_s = 1000000000000;

	return rate_bps ? (uint64_t)(((unsigned __int128)8 * ps_per_s << VK_LINK_COST_SHIFT) /
				     rate_bps) :
			  0;
}

void vk_link_init(struct vk_link *link, const struct vk_link_config *config, uint64_t seed)
{
	*link = (struct vk_link){ .bad = 0 };
	vk_random_seed(&link->random, seed);
	vk_link_configure(link, config);
}

void vk_link_configure(struct vk_link *link, const struct vk_link_config *config)
{
	link->config = *config;
	link->byte_cost = byte_cost(config->rate_bps);
	link->policer_cost = byte_cost(config->policer_bps);
}

uint64_t vk_link_waiting_ns(const struct vk_link *link, uint64_t now_ns)
{
	uint64_t now_ps = now_ns * PS_PER_NS;

	return link->free_ps > now_ps ? (link->free_ps - now_ps) / PS_PER_NS : 0;
}

static uint64_t duration_ps(uint64_t bytes, uint64_t cost)
{
	return (uint64_t)((unsigned __int128)bytes * cost >> VK_LINK_COST_SHIFT);
}

static int policed(struct vk_link *link, uint32_t bytes, uint64_t now_ns)
{
	const struct vk_link_config *config = &link->config;
	uint64_t cost_ns, depth_ns, from_ns;

	if (!config->policer_bps)
		return 0;
	cost_ns = duration_ps(bytes, link->policer_cost) / PS_PER_NS;
	depth_ns = duration_ps(config->policer_bytes, link->policer_cost) / PS_PER_NS;
	from_ns = link->policer_ns > now_ns ? link->policer_ns : now_ns;
	if (from_ns + cost_ns > now_ns + depth_ns)
		return 1;
	link->policer_ns = from_ns + cost_ns;
	return 0;
}

/* Gilbert-Elliott: two states, each with a chance of loss. */
static int lost(struct vk_link *link)
{
	const struct vk_link_config *config = &link->config;

	if (config->bad_enter_ppb &&
	    vk_random_chance(&link->random,
			     link->bad ? config->bad_leave_ppb : config->bad_enter_ppb))
		link->bad = !link->bad;
	return vk_random_chance(&link->random, link->bad ? config->bad_loss_ppb : config->loss_ppb);
}

/* Lets a packet through the queue; *leave_ns is when its last bit has left. 0 = no room. */
static int enqueue(struct vk_link *link, uint32_t bytes, uint64_t now_ns, struct vk_fate *fate,
		   uint64_t *leave_ns)
{
	const struct vk_link_config *config = &link->config;
	uint64_t now_ps = now_ns * PS_PER_NS, waiting_ps, cost_ps;

	*leave_ns = now_ns;
	if (!config->rate_bps)
		return 1;
	cost_ps = duration_ps(bytes, link->byte_cost);
	waiting_ps = link->free_ps > now_ps ? link->free_ps - now_ps : 0;
	if (config->buffer_bytes && waiting_ps &&
	    waiting_ps + cost_ps > duration_ps(config->buffer_bytes, link->byte_cost))
		return 0;
	if (config->mark_bytes && waiting_ps >= duration_ps(config->mark_bytes, link->byte_cost))
		fate->marked = 1;
	link->free_ps = now_ps + waiting_ps + cost_ps;
	*leave_ns = link->free_ps / PS_PER_NS;
	return 1;
}

static uint64_t arrival(struct vk_link *link, uint64_t leave_ns)
{
	const struct vk_link_config *config = &link->config;
	uint64_t at_ns = leave_ns + config->delay_ns;

	if (config->jitter_ns)
		at_ns += vk_random_below(&link->random, config->jitter_ns);
	if (vk_random_chance(&link->random, config->reorder_ppb)) {
		link->count.reordered++;
		return at_ns + config->reorder_ns;
	}
	if (at_ns < link->last_ns)
		at_ns = link->last_ns;
	link->last_ns = at_ns;
	return at_ns;
}

struct vk_fate vk_link_send(struct vk_link *link, uint32_t size, uint64_t now_ns)
{
	const struct vk_link_config *config = &link->config;
	struct vk_link_count *count = &link->count;
	struct vk_fate fate = { .copies = 0 };
	uint64_t leave_ns;

	count->packets++;
	count->bytes += size;
	if (config->down || lost(link)) {
		count->lost++;
		return fate;
	}
	if (config->mtu && size + VK_LINK_IP4_UDP > config->mtu) {
		count->oversized++;
		return fate;
	}
	if (policed(link, size + config->overhead, now_ns)) {
		count->policed++;
		return fate;
	}
	if (!enqueue(link, size + config->overhead, now_ns, &fate, &leave_ns)) {
		count->overflowed++;
		return fate;
	}
	count->marked += fate.marked;
	fate.copies = 1 + (uint32_t)vk_random_chance(&link->random, config->duplicate_ppb);
	fate.corrupt = (uint8_t)vk_random_chance(&link->random, config->corrupt_ppb);
	count->corrupted += fate.corrupt;
	count->duplicated += fate.copies - 1;
	count->arrived += fate.copies;
	for (uint32_t i = 0; i < fate.copies; i++)
		fate.arrive_ns[i] = arrival(link, leave_ns);
	return fate;
}
